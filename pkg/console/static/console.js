// Times in the reader's zone: the element keeps UTC in its title and datetime.
const local = root => {
  for (const t of root.querySelectorAll('time[datetime]')) {
    const d = new Date(t.dateTime), two = n => String(n).padStart(2, '0');
    t.textContent = `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
  }
};
local(document);
