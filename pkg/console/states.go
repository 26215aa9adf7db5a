package console

import (
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/state"
)

// connectionLevel is how the status of a connection is shown.
func connectionLevel(r state.Connection) level {
	switch {
	case r.Deleted:
		return neutral
	case r.Suspect, r.Status == codat.Deauthorized, r.Status == codat.PendingAuth:
		return waiting
	case r.Status == codat.Linked:
		return good
	}
	return neutral
}

// writeLevel is how the status of a write is shown.
func writeLevel(r state.Write) level {
	switch r.Status {
	case codat.Success:
		return good
	case codat.Failed, codat.TimedOut:
		return alarm
	}
	return waiting
}
