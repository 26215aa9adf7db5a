package console

// actionsPath is where actions are previewed and confirmed, by POST.
const actionsPath = "/actions/"
