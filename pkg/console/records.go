package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/pkg/stream"
)

// A listQuery is what a list of records is asked for, as it stands in the address. Its names are those of the command's flags.
type listQuery struct {
	path, command string
	names         []string
	values        url.Values
	Before        uint64 // only records that changed before this sequence
	since, until  time.Time
}

// readQuery reads the query of a list that the command prints, too. It answers a query that cannot be used, and returns false then.
func (c *Console) readQuery(w http.ResponseWriter, r *http.Request, command string, names ...string) (listQuery, bool) {
	q := listQuery{path: r.URL.Path, command: command, names: slices.Concat(names, []string{"since", "until"}), values: url.Values{}}
	given := r.URL.Query()
	for _, name := range q.names {
		if value := strings.TrimSpace(given.Get(name)); value != "" {
			q.values.Set(name, value)
		}
	}
	var err error
	if q.Before, q.since, q.until, err = readBounds(given, c.Now(), nil); err != nil {
		c.badFilter(w, r, err)
		return q, false
	}
	return q, true
}

// badFilter answers a filter that cannot be used.
func (c *Console) badFilter(w http.ResponseWriter, r *http.Request, err error) {
	c.fail(w, r, problem{Status: http.StatusBadRequest, Title: "The filter cannot be used", Text: err.Error(), Cure: "Change it in the address, or begin again with the page in the head."})
}

// Get returns a value of the filter, and "" without one.
func (q listQuery) Get(name string) string { return q.values.Get(name) }

// Filtered reports whether the filter excludes records.
func (q listQuery) Filtered() bool { return len(q.values) > 0 }

// All is the address of the list without a filter.
func (q listQuery) All() string { return q.path }

// Newest is the address of the first page.
func (q listQuery) Newest() string { return address(q.path, q.values) }

// Older is the address of the page of the records that changed before a sequence.
func (q listQuery) Older(before uint64) string {
	values := q.copied()
	values.Set("before", strconv.FormatUint(before, 10))
	return address(q.path, values)
}

// With is the address of the first page with another value of the filter, and without it for "".
func (q listQuery) With(name, value string) string {
	values := q.copied()
	if values.Set(name, value); value == "" {
		values.Del(name)
	}
	return address(q.path, values)
}

func (q listQuery) copied() url.Values {
	values := url.Values{}
	for name, all := range q.values {
		values[name] = all
	}
	return values
}

func address(path string, values url.Values) string {
	if len(values) == 0 {
		return path
	}
	return path + "?" + values.Encode()
}

// statusFlags are the words of statuses that the command has a flag for.
var statusFlags = map[string]string{"Suspect": " --suspect", "Overdue": " --overdue", "Unknown": ""}

// Command is the command that prints the list.
func (q listQuery) Command() string {
	command := q.command
	for _, name := range q.names {
		value := q.Get(name)
		flag, is := statusFlags[value]
		switch {
		case value == "":
		case name == "status" && is:
			command += flag
		default:
			command += " --" + name + " " + argument(value)
		}
	}
	return command
}

// argument is a word of a command, quoted where a shell would read something else.
func argument(word string) string {
	special := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.:/+", r)
	}
	if strings.IndexFunc(word, special) < 0 {
		return word
	}
	return quoted(word)
}

// holds reports whether a filter is empty or the value.
func (q listQuery) holds(name, value string) bool {
	wanted := q.Get(name)
	return wanted == "" || strings.EqualFold(wanted, value)
}

// within reports whether a time is between since and until.
func (q listQuery) within(t time.Time) bool {
	return !t.Before(q.since) && (q.until.IsZero() || t.Before(q.until))
}

// An idLink is an id that leads to what it names.
type idLink struct{ ID, Href string }

func companyLink(id string) idLink {
	if id == "." || id == ".." { // a browser leaves them out of a path
		return idLink{id, "/events?company=" + id}
	}
	return idLink{id, "/companies/" + url.PathEscape(id)}
}

func connectionLink(company, id string) idLink {
	return idLink{id, "/connections/" + url.PathEscape(company) + "/" + url.PathEscape(id)}
}

func planLink(id string) idLink { return idLink{id, "/plans/" + url.PathEscape(id)} }

func writeLink(key string) idLink { return idLink{key, "/writes/" + url.PathEscape(key)} }

// eventLink leads to an event by its sequence, with its webhook-id as the text.
func eventLink(webhookID string, sequence uint64) idLink {
	if sequence == 0 {
		return idLink{ID: webhookID}
	}
	return idLink{webhookID, "/events/" + strconv.FormatUint(sequence, 10)}
}

// A stateWord is a state as it is shown: a shape, a word and a colour.
type stateWord struct {
	Word  string
	Level level
}

// A chip is a status with how many records have it.
type chip struct {
	stateWord
	Count int
	Href  string
	Here  bool // the list is filtered by it
}

// chips are the statuses of a bucket's records in the order of their number.
func (q listQuery) chips(counts map[string]int, levels func(string) level) []chip {
	var all []chip
	for word, n := range counts {
		here := strings.EqualFold(q.Get("status"), word)
		href := q.path + "?status=" + url.QueryEscape(word)
		if here {
			href = q.path
		}
		all = append(all, chip{stateWord{word, levels(word)}, n, href, here})
	}
	slices.SortFunc(all, func(a, b chip) int {
		if a.Count != b.Count {
			return b.Count - a.Count
		}
		return strings.Compare(a.Word, b.Word)
	})
	return all
}

const (
	// mostRecords is how many records one page looks at.
	mostRecords = 20_000
	// firstRange and largestRange are how many sequences are read at once where the records are dense.
	firstRange   = 128
	largestRange = 4096
	// sparseRange is the most where they are not.
	sparseRange = 1 << 16
)

// A recordsPage are the newest records of a list.
type recordsPage[R any] struct {
	Rows   []R
	Looked int    // records that were looked at
	Next   uint64 // Before of what follows; 0 when there is no more
	// Provisioned says that there is something to read.
	Provisioned bool
}

// A backward reads a stream from its newest message to its oldest.
type backward struct {
	stream, filter string
	before         uint64 // begin before this sequence; 0: at the end
	// few says that the filter leaves so little that all of it is read at once.
	few   bool
	limit int // rows
}

// newestRecords returns the newest records that take keeps. It ends with a full page, and when it has looked at mostRecords: then Next says
// where to go on. A stream that does not exist has no records.
func newestRecords[R any](ctx context.Context, js jetstream.JetStream, b backward, take func(*jetstream.RawStreamMsg) (R, bool)) (page recordsPage[R], err error) {
	st, err := js.Stream(ctx, b.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return page, nil
	}
	if err != nil {
		return page, fmt.Errorf("stream %s: %w", b.stream, err)
	}
	page.Provisioned = true
	info := st.CachedInfo()
	first, through := max(info.State.FirstSeq, 1), info.State.LastSeq
	if b.before != 0 {
		through = min(through, b.before-1)
	}
	size := uint64(firstRange)
	if b.few {
		size = through + 1
	}
	for through >= first {
		after := through - min(size, through-first+1)
		some, read, err := readRange(ctx, js, b, stream.ReadOptions{Created: info.Created, After: after, Through: through}, take)
		if err != nil {
			return page, err
		}
		page.Looked += read
		for i, row := range slices.Backward(some) {
			page.Rows = append(page.Rows, row.row)
			if len(page.Rows) == b.limit {
				if i > 0 || after >= first {
					page.Next = row.sequence
				}
				return page, nil
			}
		}
		if through = after; page.Looked >= mostRecords && through >= first {
			page.Next = through + 1
			return page, nil
		}
		if size = min(2*size, largestRange); read < firstRange/4 {
			size = sparseRange
		}
	}
	return page, nil
}

// placed is a row with its sequence.
type placed[R any] struct {
	row      R
	sequence uint64
}

// readRange reads a range forwards. Marks of deletion count as read and are no records.
func readRange[R any](ctx context.Context, js jetstream.JetStream, b backward, o stream.ReadOptions, take func(*jetstream.RawStreamMsg) (R, bool)) (some []placed[R], read int, err error) {
	if b.filter != "" {
		o.Filters = []string{b.filter}
	}
	_, err = stream.Read(ctx, js, b.stream, o, func(m *jetstream.RawStreamMsg) error {
		read++
		if m.Header.Get("KV-Operation") != "" {
			return nil
		}
		if row, keep := take(m); keep {
			some = append(some, placed[R]{row, m.Sequence})
		}
		return nil
	})
	return some, read, err
}
