package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/headgate/headgate/bench/lab"
	"github.com/headgate/headgate/pkg/claims"
	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/deadletter"
	"github.com/headgate/headgate/pkg/inspect"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/stream"
)

const (
	findWorker    = "finds"
	findCompanies = 2000
	findPage      = 50 // as many events as fit a screen
	findDays      = 16 // that a stream keeps; the last day is this part of the events
	findMs        = "ms"

	byWebhookID  = "by webhook-id"
	byCompany    = "by company, the newest 50, index warm"
	byPush       = "by push operation, index warm"
	byCold       = "by company, the last day, from the start of an empty index"
	byScan       = "by company, the last day, without an index"
	byCompanyAll = "by company, all, index warm"
	byCommand    = "by company, the newest 50, headgate find from its start to its end"
	listLetters  = "dead list, the newest 50"
	midLetters   = "dead list, 50 in the middle"
	lastLetters  = "dead list, the oldest 50, which were given again"
	scanLetters  = "dead list, the newest 50, without an index"

	indexBuilt = "index"
)

func findCase(events int) string { return fmt.Sprintf("find, %d events stored", events) }

func lettersCase(letters int) string { return fmt.Sprintf("dead list, %d letters", letters) }

// findPart measures how long it takes to find events by their ids, with the index of headgate watch and without, and to list dead
// letters. One server without fsync, which has nothing else to do; the clients are in this process, but for headgate find.
func findPart(ctx context.Context, b *bench) error {
	servers, err := b.lab.NATS(ctx, b.programs["nats-server"], 1, false)
	if err != nil {
		return err
	}
	spec := stream.WorkerSpec{Name: findWorker, Types: []codat.Pattern{"*.write.successful"}}
	if err := provision(ctx, servers, workerSource, spec); err != nil {
		return err
	}
	b.progress("find: store %d events", b.ids)
	events := newFindEvents(b.ids, b.size)
	events.pause = true
	if err := events.store(ctx, servers); err != nil {
		return err
	}
	for round := range b.rounds {
		b.progress("find: round %d of %d", round+1, b.rounds)
		if err := b.findOnce(ctx, servers, events); err != nil {
			return err
		}
	}
	letters := b.ids / 10
	b.progress("find: store %d dead letters", letters)
	if err := events.bury(ctx, servers, letters); err != nil {
		return err
	}
	if err := b.findLetters(ctx, servers, letters); err != nil {
		return err
	}
	return servers.Stop()
}

// findEvents are events of companies, each with a connection, in random order; one in three is about a write.
type findEvents struct {
	count, size int
	pause       bool // before the last day
	companies   []string
	someID      string    // webhook-id of one in the middle, which has a claim
	someSeq     uint64    // its sequence
	somePush    string    // push operation of another one
	someCompany string    // of the newest one
	lastDay     time.Time // when the last day began
}

func newFindEvents(count, size int) *findEvents {
	f := &findEvents{count: count, size: size}
	for range findCompanies {
		f.companies = append(f.companies, uuid.NewString())
	}
	return f
}

// message returns an event as the ingress stores it.
func (f *findEvents) message() (*nats.Msg, stream.Stored, error) {
	company := f.companies[rand.IntN(len(f.companies))]
	head := codat.Head{Type: "read.completed", Company: company, Connection: uuid.NewSHA1(uuid.Nil, []byte(company)).String(), Generated: time.Now()}
	if rand.IntN(3) == 0 {
		head.Type, head.PushOperation = "invoices.write.successful", uuid.NewString()
	}
	body := fmt.Appendf(nil, `{"id":%q,"eventType":%q,"generatedDate":%q,"payload":{"companyId":%q,"text":"`, uuid.NewString(), head.Type, head.Generated.Format(time.RFC3339Nano), company)
	for len(body) < f.size-3 {
		body = append(body, 'x')
	}
	e := stream.Stored{
		ID: "msg_" + uuid.NewString()[:27], Timestamp: strconv.FormatInt(time.Now().Unix(), 10), Signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		Head: head, Received: time.Now(), ContentType: "application/json",
	}
	m, err := workerSource.Message(e, append(body, `"}}`...))
	return m, e, err
}

// store stores them, and the claim of a worker on one.
func (f *findEvents) store(ctx context.Context, servers *lab.NATS) error {
	for i := range f.count {
		m, e, err := f.message()
		if err != nil {
			return err
		}
		switch {
		case i == f.count/2:
			f.someID, f.someSeq = e.ID, uint64(i+1)
		case i > f.count/3 && f.somePush == "":
			f.somePush = e.Head.PushOperation
		case f.pause && i == f.count-f.count/findDays:
			if err := f.dayBegins(ctx, servers); err != nil {
				return err
			}
		}
		f.someCompany = e.Head.Company
		if err := publishAsync(servers, m); err != nil {
			return err
		}
	}
	if err := published(ctx, servers); err != nil {
		return err
	}
	bucket := workerSource.ClaimsBucket(findWorker)
	record := fmt.Appendf(nil, `{"state":"done","seq":%d,"attempts":1}`, f.someSeq)
	_, err := servers.JS.Publish(ctx, "$KV."+bucket+"."+claims.Key{WebhookID: f.someID}.String(), record)
	return err
}

// dayBegins begins the last day, longer after what was stored before than the clocks of two servers may differ: a search since then
// reads that little of the day before.
func (f *findEvents) dayBegins(ctx context.Context, servers *lab.NATS) error {
	if err := published(ctx, servers); err != nil {
		return err
	}
	select {
	case <-time.After(65 * time.Second):
		f.lastDay = time.Now()
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func publishAsync(servers *lab.NATS, m *nats.Msg) error {
	_, err := servers.JS.PublishMsgAsync(m, jetstream.WithStallWait(time.Minute))
	return err
}

// published returns when all that was published has its acknowledgement.
func published(ctx context.Context, servers *lab.NATS) error {
	select {
	case <-servers.JS.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// asyncPublisher does not wait for the acknowledgement.
type asyncPublisher struct{ servers *lab.NATS }

func (p asyncPublisher) Publish(_ context.Context, m *nats.Msg) (stream.Receipt, error) {
	return stream.Receipt{}, publishAsync(p.servers, m)
}

// bury stores dead letters of events that are like the others. The older half was given again, and is done.
func (f *findEvents) bury(ctx context.Context, servers *lab.NATS, letters int) error {
	r := deadletter.Redriver{JS: servers.JS, Publisher: asyncPublisher{servers}, Source: workerSource}
	for i := range letters {
		m, e, err := f.message()
		if err != nil {
			return err
		}
		m.Subject = workerSource.DeadSubject(findWorker, e.Head.Type)
		m.Header.Set("headgate-worker", findWorker)
		m.Header.Set("headgate-cause", "permanent")
		m.Header.Set("headgate-last-error", "the ledger is closed")
		m.Header.Set("headgate-attempts", "1")
		m.Header.Set(stream.HeaderSequence, strconv.Itoa(i+1))
		if err := publishAsync(servers, m); err != nil {
			return err
		}
		if i >= letters/2 {
			continue
		}
		given := deadletter.Letter{Worker: findWorker, Type: e.Head.Type, WebhookID: e.ID, Sequence: uint64(i + 1), Header: m.Header, Body: m.Data}
		if _, err := r.Redrive(ctx, "monday", given); err != nil {
			return err
		}
		key := "$KV." + workerSource.ClaimsBucket(findWorker) + "." + claims.Key{WebhookID: e.ID, Redrive: "monday"}.String()
		if err := publishAsync(servers, &nats.Msg{Subject: key, Data: []byte(`{"state":"done","attempts":1}`)}); err != nil {
			return err
		}
	}
	if err := published(ctx, servers); err != nil {
		return err
	}
	o, err := operator.New(servers.JS, workerSource)
	if err != nil {
		return err
	}
	defer o.Close()
	e := operator.Entry{Command: "dead replay", Step: operator.StepEnd, Redrive: "monday", Given: letters / 2, Letters: fmt.Sprintf("1-%d", letters/2)}
	return o.Record(ctx, e)
}

// findOnce measures everything once.
func (b *bench) findOnce(ctx context.Context, servers *lab.NATS, f *findEvents) error {
	day := inspect.Search{ID: f.someCompany, Since: f.lastDay}
	if err := b.search(ctx, servers, byScan, day, 1); err != nil {
		return err
	}
	began := time.Now()
	index, stop := b.keepIndex(ctx, servers)
	defer stop()
	known := func() bool {
		s := index.State()
		return !s.Oldest.IsZero() && s.Oldest.Before(f.lastDay.Add(-time.Minute))
	}
	if err := b.await(ctx, func() bool { return known() && answers(ctx, servers) }); err != nil {
		return err
	}
	if err := b.search(ctx, servers, byCold, day, 0); err != nil {
		return err
	}
	b.add(findCase(b.ids), byCold, findMs, millis(time.Since(began)))
	if err := b.await(ctx, func() bool { return index.State().Events == uint64(f.count) }); err != nil {
		return err
	}
	b.add(findCase(b.ids), indexBuilt, "built s", time.Since(began).Seconds())
	b.add(findCase(b.ids), indexBuilt, "MB", float64(index.State().Bytes)/1e6)
	return b.findWarm(ctx, servers, f)
}

// keepIndex keeps an index that answers until the returned function is called.
func (b *bench) keepIndex(ctx context.Context, servers *lab.NATS) (*inspect.Index, func()) {
	ctx, cancel := context.WithCancel(ctx)
	index := inspect.NewIndex(servers.JS, workerSource, 1<<30)
	var running sync.WaitGroup
	running.Go(func() { index.Run(ctx, func(err error) { b.progress("find: the index: %v", err) }) })
	running.Go(func() {
		if err := index.Answer(ctx, servers.NC); err != nil {
			b.progress("find: the index: %v", err)
		}
	})
	return index, func() { cancel(); running.Wait() }
}

// answers reports whether an index answers.
func answers(ctx context.Context, servers *lab.NATS) bool {
	_, err := servers.NC.RequestWithContext(ctx, workerSource.FindSubject(), nil)
	return err == nil
}

// findWarm measures what an index knows all of.
func (b *bench) findWarm(ctx context.Context, servers *lab.NATS, f *findEvents) error {
	for _, s := range []struct {
		name string
		inspect.Search
	}{
		{byCompany, inspect.Search{ID: f.someCompany, Limit: findPage}},
		{byPush, inspect.Search{ID: f.somePush}},
		{byCompanyAll, inspect.Search{ID: f.someCompany}},
	} {
		if err := b.search(ctx, servers, s.name, s.Search, 0); err != nil {
			return err
		}
	}
	began := time.Now()
	story, err := inspect.Find(ctx, servers.JS, workerSource, f.someID)
	if err == nil && len(story.Stored) != 1 {
		err = fmt.Errorf("the story of %s has %d messages; want 1", f.someID, len(story.Stored))
	}
	if err != nil {
		return err
	}
	b.add(findCase(b.ids), byWebhookID, findMs, millis(time.Since(began)))
	began = time.Now()
	cmd := exec.CommandContext(ctx, b.programs["headgate"], "find", f.someCompany, "--limit", strconv.Itoa(findPage), "--source", string(workerSource), "--nats-url", servers.URL)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("headgate find: %w\n%s", err, out)
	}
	b.add(findCase(b.ids), byCommand, findMs, millis(time.Since(began)))
	return nil
}

// search measures one search. scans is how often it may read the stream.
func (b *bench) search(ctx context.Context, servers *lab.NATS, name string, q inspect.Search, scans int) error {
	began, scanned, found := time.Now(), 0, 0
	q.Scanning = func(string) { scanned++ }
	err := inspect.FindEvents(ctx, servers.JS, workerSource, q, func(inspect.Match) error {
		found++
		return nil
	})
	if err == nil && (found == 0 || scanned > scans) {
		err = fmt.Errorf("%s: %d events after %d scans; want some, after %d", name, found, scanned, scans)
	}
	if err != nil {
		return err
	}
	if name != byCold { // which begins with the index
		b.add(findCase(b.ids), name, findMs, millis(time.Since(began)))
	}
	return nil
}

// await returns when cond holds.
func (b *bench) await(ctx context.Context, cond func() bool) error {
	for !cond() {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// findLetters measures pages of the dead letters.
func (b *bench) findLetters(ctx context.Context, servers *lab.NATS, letters int) error {
	for range b.rounds {
		if err := b.listLetters(ctx, servers, letters, scanLetters, operator.LettersQuery{}); err != nil {
			return err
		}
	}
	index, stop := b.keepIndex(ctx, servers)
	defer stop()
	if err := b.await(ctx, func() bool { return index.State().Events >= uint64(b.ids) }); err != nil {
		return err
	}
	if err := b.indexLetters(ctx, servers); err != nil {
		return err
	}
	for range b.rounds {
		for name, before := range map[string]uint64{listLetters: 0, midLetters: uint64(letters / 2), lastLetters: findPage + 1} {
			q := operator.LettersQuery{Before: before, Scanning: func(reason string) { b.progress("find: %s: %s", name, reason) }}
			if err := b.listLetters(ctx, servers, letters, name, q); err != nil {
				return err
			}
		}
	}
	return nil
}

// listLetters measures one page.
func (b *bench) listLetters(ctx context.Context, servers *lab.NATS, letters int, name string, q operator.LettersQuery) error {
	began, seen := time.Now(), 0
	err := operator.Letters(ctx, servers.JS, workerSource, q, func(operator.Letter) error {
		if seen++; seen == findPage {
			return errPage
		}
		return nil
	})
	if err != errPage {
		return fmt.Errorf("%s: %d letters, %w; want %d", name, seen, err, findPage)
	}
	b.add(lettersCase(letters), name, findMs, millis(time.Since(began)))
	return nil
}

var errPage = fmt.Errorf("the page is full")

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
