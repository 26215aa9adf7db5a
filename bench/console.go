package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/bench/lab"
	"github.com/headgate/headgate/bench/load"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	consoleUser    = "X-Console-User" // header that names the user
	consoleViewers = 500
	consoleRate    = 50 // events a second while viewers look
	newestEvents   = 1000
	pageTries      = 5 // how often a page is asked for in a round, of which the median counts

	coldStart  = "the first page, from the start of the program"
	coldPage   = "the first page, from its request"
	pagePath   = "/"
	pageEvents = "/events"
	pageEvent  = "/events/N"
	pageFilter = "/events?company=C"
	pageOne    = "/companies/C"
	deadNewest = "/dead, the newest"
	deadMiddle = "/dead, the middle"
	deadOldest = "/dead, the oldest that are open"
	deadGiven  = "/dead, the oldest, which were given again"
	deadNone   = "/dead, where none is open"
	deadLetter = "/dead/N"

	pageMs     = "ms"
	pageKB     = "kB gzip"
	coreShare  = "% of a core"
	filesCase  = "files of the console"
	scriptFile = "script"
	styleFile  = "style"
)

func consoleCase(events, letters int) string {
	return fmt.Sprintf("headgate console, %d events and %d dead letters stored", events, letters)
}

var viewersCase = fmt.Sprintf("CPU of headgate console, %d events/s", consoleRate)

func viewersName(n int) string { return fmt.Sprintf("%d viewers", n) }

// consolePart measures the pages of headgate console, and what its viewers cost. One server without fsync; the index of headgate watch,
// the viewers and who publishes events are in this process.
func consolePart(ctx context.Context, b *bench) error {
	servers, err := b.lab.NATS(ctx, b.programs["nats-server"], 1, false)
	if err != nil {
		return err
	}
	spec := stream.WorkerSpec{Name: findWorker, Types: []codat.Pattern{"*.write.successful"}}
	if err := provision(ctx, servers, workerSource, spec); err != nil {
		return err
	}
	letters := b.ids / 10
	b.progress("console: store %d events and %d dead letters", b.ids, letters)
	events := newFindEvents(b.ids, b.size)
	if err := errors.Join(events.store(ctx, servers), events.bury(ctx, servers, letters), events.storeNewest(ctx, servers)); err != nil {
		return err
	}
	index, stop := b.keepIndex(ctx, servers)
	defer stop()
	stored := uint64(b.ids + letters/2 + newestEvents) // with the redrives
	if err := b.await(ctx, func() bool { return index.State().Events >= stored && answers(ctx, servers) }); err != nil {
		return err
	}
	if err := b.indexLetters(ctx, servers); err != nil {
		return err
	}
	for round := range b.rounds {
		b.progress("console: round %d of %d", round+1, b.rounds)
		if err := b.consoleOnce(ctx, servers, events, letters); err != nil {
			return err
		}
	}
	stop()
	return errors.Join(b.consoleFiles(), servers.Stop())
}

// indexLetters returns when the index tells what came of the dead letters.
func (b *bench) indexLetters(ctx context.Context, servers *lab.NATS) error {
	for scanned := true; scanned; {
		scanned = false
		q := operator.LettersQuery{Scanning: func(string) { scanned = true }}
		if err := operator.Letters(ctx, servers.JS, workerSource, q, func(operator.Letter) error { return errPage }); err != errPage {
			return err
		}
	}
	return nil
}

// storeNewest stores events after the redrives of the dead letters, which are the newest otherwise.
func (f *findEvents) storeNewest(ctx context.Context, servers *lab.NATS) error {
	for range newestEvents {
		m, e, err := f.message()
		if err != nil {
			return err
		}
		f.someCompany = e.Head.Company
		if err := publishAsync(servers, m); err != nil {
			return err
		}
	}
	return published(ctx, servers)
}

// A consoleClient asks one console for pages.
type consoleClient struct {
	address string
	http    *http.Client
}

// consoleOnce starts a console, and measures everything once.
func (b *bench) consoleOnce(ctx context.Context, servers *lab.NATS, f *findEvents, letters int) error {
	in := consoleCase(b.ids, letters)
	began := time.Now()
	process, c, err := b.startConsole(ctx, servers)
	if err != nil {
		return err
	}
	defer c.http.CloseIdleConnections()
	asked := time.Now()
	text, size, err := c.page(ctx, pagePath)
	if err != nil {
		return err
	}
	if !strings.Contains(text, findWorker) {
		return fmt.Errorf("the first page of a console has no values:\n%s", text)
	}
	b.add(in, coldStart, pageMs, millis(time.Since(began)))
	b.add(in, coldPage, pageMs, millis(time.Since(asked)))
	b.add(in, coldPage, pageKB, float64(size)/1000)
	for _, p := range consolePages(f, letters) {
		var took []float64
		for range pageTries {
			began := time.Now()
			_, size, err = c.page(ctx, p.address)
			if err != nil {
				return err
			}
			took = append(took, millis(time.Since(began)))
		}
		b.add(in, p.name, pageMs, load.Median(took))
		b.add(in, p.name, pageKB, float64(size)/1000)
	}
	for _, n := range []int{0, 1, consoleViewers} {
		if err := b.view(ctx, servers, process, c, n); err != nil {
			return err
		}
	}
	return b.lab.Stop(process)
}

type consolePage struct{ name, address string }

// consolePages are the pages that are measured: of the dead letters the newer half is open.
func consolePages(f *findEvents, letters int) []consolePage {
	dead := func(before int, more string) string { return fmt.Sprintf("/dead?before=%d%s", before, more) }
	return []consolePage{
		{pagePath, "/"},
		{pageEvents, "/events"},
		{pageEvent, fmt.Sprintf("/events/%d", f.someSeq)},
		{pageFilter, "/events?company=" + f.someCompany},
		{pageOne, "/companies/" + f.someCompany},
		{deadNewest, "/dead"},
		{deadMiddle, dead(letters*3/4, "")},
		{deadOldest, dead(letters/2+findPage+1, "")},
		{deadGiven, dead(findPage+1, "&all=1")},
		{deadNone, dead(letters/2+1, "")},
		{deadLetter, fmt.Sprintf("/dead/%d", letters*3/4)},
	}
}

// startConsole starts a console, and returns when it listens.
func (b *bench) startConsole(ctx context.Context, servers *lab.NATS) (*lab.Process, *consoleClient, error) {
	address, err1 := lab.Address()
	admin, err2 := lab.Address()
	if err := errors.Join(err1, err2); err != nil {
		return nil, nil, err
	}
	process, err := b.lab.Start("console", b.programs["headgate"], []string{
		"console", "serve", "--listen", address, "--admin-listen", admin, "--user-header", consoleUser, "--trusted-proxy", "127.0.0.1",
		"--source", string(workerSource), "--nats-url", servers.URL, "--log-level", "warn",
	}, nil)
	if err != nil {
		return nil, nil, err
	}
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: consoleViewers}
	c := &consoleClient{address: "http://" + address, http: &http.Client{Transport: transport}}
	return process, c, process.Await(ctx, lab.Listens(address))
}

func (c *consoleClient) get(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.address+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set(consoleUser, "ada")
	req.Header.Set("Accept-Encoding", "gzip")
	res, err := c.http.Do(req)
	if err == nil && res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body) // for the error
		err = errors.Join(fmt.Errorf("%s answers %s\n%s", path, res.Status, text), res.Body.Close())
	}
	return res, err
}

// page returns a page, and how many bytes it has on the wire.
func (c *consoleClient) page(ctx context.Context, path string) (text string, size int, err error) {
	res, err := c.get(ctx, path)
	if err != nil {
		return "", 0, err
	}
	defer res.Body.Close()
	packed, err := io.ReadAll(res.Body)
	if err != nil {
		return "", 0, err
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w", path, err)
	}
	plain, err := io.ReadAll(unpacked)
	return string(plain), len(packed), err
}

// view measures the CPU time of a console while so many viewers have its first page open.
func (b *bench) view(ctx context.Context, servers *lab.NATS, process *lab.Process, c *consoleClient, viewers int) error {
	watching, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	failed := make(chan error, viewers+1)
	var seen counter
	for range viewers {
		res, err := c.get(watching, "/live?part=stations&part=findings&part=workers")
		if err != nil {
			return err
		}
		running.Go(func() {
			defer res.Body.Close()
			if _, err := io.Copy(&seen, res.Body); watching.Err() == nil {
				failed <- fmt.Errorf("the live values of a viewer ended: %w", errors.Join(err, io.ErrUnexpectedEOF))
			}
		})
	}
	running.Go(func() { failed <- publishSteadily(watching, servers, b.size) })
	const settle = 5 // slices until all have the newest parts
	if err := wait(ctx, settle*b.slice, failed); err != nil {
		return err
	}
	before, err := lab.CPU(process)
	if err != nil {
		return err
	}
	began, seenBefore := time.Now(), seen.Load()
	const measured = 15 // slices: the kernel counts in hundredths of a second
	if err := wait(ctx, measured*b.slice, failed); err != nil {
		return err
	}
	after, err := lab.CPU(process)
	if err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	b.add(viewersCase, viewersName(viewers), coreShare, 100*(after-before).Seconds()/seconds)
	if viewers == 0 {
		return nil
	}
	each := float64(seen.Load()-seenBefore) / float64(viewers) / seconds / 1000
	b.add(viewersCase, viewersName(viewers), "kB/s each", each)
	if each == 0 {
		return errors.New("the viewers of a console see nothing live")
	}
	return nil
}

// A counter counts what is written to it.
type counter struct{ atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.Add(int64(len(p)))
	return len(p), nil
}

// wait waits, and returns early with what failed.
func wait(ctx context.Context, d time.Duration, failed <-chan error) error {
	select {
	case <-time.After(d):
		return nil
	case err := <-failed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// publishSteadily stores consoleRate events a second until ctx ends.
func publishSteadily(ctx context.Context, servers *lab.NATS, size int) error {
	f := newFindEvents(0, size)
	tick := time.NewTicker(time.Second / consoleRate)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		m, _, err := f.message()
		if err != nil {
			return err
		}
		if err := publishAsync(servers, m); err != nil {
			return err
		}
	}
}

// consoleFiles counts the lines of the script and the bytes of the style, as they are in the sources.
func (b *bench) consoleFiles() error {
	const folder = "../pkg/console/static/"
	script, err1 := os.ReadFile(folder + "console.js")
	style, err2 := os.ReadFile(folder + "style.css")
	b.add(filesCase, scriptFile, "lines", float64(bytes.Count(script, []byte("\n"))))
	b.add(filesCase, styleFile, "kB", float64(len(style))/1000)
	return errors.Join(err1, err2)
}

// worstDead is the slowest median of the pages of dead letters.
func (r *report) worstDead(in string) float64 {
	worst := r.median(in, deadNewest, pageMs)
	for _, name := range []string{deadMiddle, deadOldest, deadGiven, deadNone, deadLetter} {
		worst = max(worst, r.median(in, name, pageMs))
	}
	return worst
}
