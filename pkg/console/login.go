package console

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/clientip"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/watchfile"
)

const (
	// logOutPath ends a session, by POST.
	logOutPath = "/log-out"
	// maxLogIn is the largest body of a log-in, in bytes.
	maxLogIn = 4 << 10
	// minSessionKey is the shortest key that signs cookies, in bytes.
	minSessionKey = 32
)

// LogInOptions say who the users of a console are: those of a file, those that a proxy names, or both. Log is required.
type LogInOptions struct {
	// UsersFile is the file of users (YAML), which is read again when it changes. Without it nobody can log in.
	UsersFile string
	// UserHeader is the request header in which a trusted proxy names the user; "" for none.
	UserHeader string
	// RightsHeader is the request header in which a trusted proxy lists the rights of that user, separated by commas; what is no right
	// is passed over. Without it the user has ProxyRights.
	RightsHeader string
	ProxyRights  User
	// Proxies are believed what they say of the client (X-Forwarded-For, X-Forwarded-Proto) and of the user.
	Proxies clientip.Networks
	// SessionKeyFile has the key that signs cookies, of at least 32 bytes. Without it New makes a key: a restart ends all sessions.
	SessionKeyFile string
	// SessionAge is how long a log-in lasts.
	SessionAge time.Duration
	Log        *zap.Logger
	// Metrics counts log-ins; it may be nil.
	Metrics prometheus.Registerer
	// Now is the time; time.Now if nil.
	Now func() time.Time
}

// LogIn is an Access for users who log in, or whom a proxy has logged in. A request of nobody gets the log-in form, on every path the same
// bytes. Run keeps its file of users.
type LogIn struct {
	LogInOptions

	sessions sessions
	attempts *attempts
	outcomes *prometheus.CounterVec
	users    atomic.Pointer[users]
	problem  atomic.Pointer[error] // of the file of users
	answers  logInAnswers

	mu   sync.Mutex
	open map[*openRequest]struct{} // guarded by mu
}

// An openRequest is a request that is being answered. One of a live view lasts for as long as its viewer stays.
type openRequest struct {
	entry   userEntry
	session string // id; empty for a token
	end     context.CancelFunc
}

// NewLogIn returns an access. It reads the files; an error names the setting and the cure.
func NewLogIn(o LogInOptions) (*LogIn, error) {
	if o.UsersFile == "" && o.UserHeader == "" {
		return nil, errors.New("--users-file or --user-header is required: without them nobody may see the console")
	}
	if o.UserHeader != "" && len(o.Proxies) == 0 {
		return nil, errors.New("--user-header needs --trusted-proxy: only a named proxy may say who the user is")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &LogIn{LogInOptions: o, attempts: newAttempts(max(1, runtime.GOMAXPROCS(0)/2))}
	l.users.Store(&users{})
	l.outcomes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "headgate_console_log_ins_total",
		Help: "Log-ins by outcome: ok, failed, or limited when too many have failed.",
	}, []string{"outcome"})
	for _, outcome := range []string{"ok", "failed", "limited"} {
		l.outcomes.WithLabelValues(outcome)
	}
	if o.Metrics != nil {
		if err := o.Metrics.Register(l.outcomes); err != nil {
			return nil, err
		}
	}
	var err error
	if l.sessions.key, err = sessionKey(o.SessionKeyFile); err != nil {
		return nil, err
	}
	l.sessions.age = o.SessionAge
	if l.answers, err = newLogInAnswers(o.UsersFile != ""); err != nil {
		return nil, err
	}
	return l, l.read()
}

// sessionKey returns the key of a file, or a new one without a file.
func sessionKey(file string) ([]byte, error) {
	if file == "" {
		key := make([]byte, minSessionKey)
		rand.Read(key) // it never fails
		return key, nil
	}
	text, err := watchfile.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--session-key-file %s: %w", file, err)
	}
	key := bytes.TrimSpace(text)
	if len(key) < minSessionKey {
		return nil, fmt.Errorf("--session-key-file %s: the key must have at least %d bytes (got %d): openssl rand -hex 32 makes one", file, minSessionKey, len(key))
	}
	return key, nil
}

// read reads the file of users, and keeps the users that it had when it cannot be used.
func (l *LogIn) read() error {
	if l.UsersFile == "" {
		return nil
	}
	all, err := readUsers(l.UsersFile)
	if err != nil {
		err = fmt.Errorf("--users-file %s: %w", l.UsersFile, err)
		l.problem.Store(&err)
		return err
	}
	l.problem.Store(nil)
	l.users.Store(&all)
	l.endRequests(func(o *openRequest) bool {
		e, known := all[o.entry.Name]
		return !known || e.user != o.entry.user || e.Password != o.entry.Password || e.Token != o.entry.Token
	})
	return nil
}

// serve calls next for a user, until the session ends.
func (l *LogIn) serve(w http.ResponseWriter, r *http.Request, next http.Handler, u User, o *openRequest) {
	ctx, end := context.WithCancel(WithUser(r.Context(), u))
	defer end()
	o.end = end
	l.mu.Lock()
	if l.open == nil {
		l.open = map[*openRequest]struct{}{}
	}
	l.open[o] = struct{}{}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.open, o)
		l.mu.Unlock()
	}()
	next.ServeHTTP(w, r.WithContext(ctx))
}

// endRequests ends the requests that are chosen: live views, which would go on without a session.
func (l *LogIn) endRequests(chosen func(*openRequest) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for o := range l.open {
		if chosen(o) {
			o.end()
		}
	}
}

// Run reads the file of users when it changes, until ctx ends. A file that cannot be used keeps its last good content in use.
func (l *LogIn) Run(ctx context.Context) {
	if l.UsersFile == "" {
		return
	}
	logged := ""
	watchfile.Watch(ctx, []string{l.UsersFile}, watchfile.PollInterval, l.Log, func() {
		text := ""
		if err := l.read(); err != nil {
			text = err.Error()
		}
		switch {
		case text == logged:
			return
		case text == "":
			l.Log.Info("the file of users can be used again")
		default:
			l.Log.Error("the file of users cannot be used: its previous content stays in use", zap.String("error", text))
		}
		logged = text
	})
}

// Check returns a warning while the file of users cannot be used.
func (l *LogIn) Check(context.Context) error {
	if err := l.problem.Load(); err != nil {
		return process.Warning(*err)
	}
	return nil
}

// Protect calls next for users, and answers others with the log-in form, whose log-in it takes. A session ends with its log-out, after
// SessionAge, and when its user is removed or gets another password or token.
func (l *LogIn) Protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, ok := l.proxyUser(r); ok {
			next.ServeHTTP(w, r.WithContext(WithUser(r.Context(), u)))
			return
		}
		if token, is := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); is && l.UsersFile != "" {
			l.byToken(w, r, next, token)
			return
		}
		if c, err := r.Cookie(cookieName(l.secure(r))); err == nil {
			if one, e, ok := l.sessions.open(c.Value, *l.users.Load(), l.Now()); ok {
				l.inSession(w, r, next, one, e)
				return
			}
		}
		if r.Method == http.MethodPost && l.UsersFile != "" {
			l.logIn(w, r)
			return
		}
		l.answers.form(w)
	})
}

// inSession serves a user who has logged in.
func (l *LogIn) inSession(w http.ResponseWriter, r *http.Request, next http.Handler, one session, e userEntry) {
	if r.URL.Path == logOutPath && r.Method == http.MethodPost {
		l.sessions.end(one, l.Now())
		l.endRequests(func(o *openRequest) bool { return o.session == one.id })
		http.SetCookie(w, cookie("", time.Time{}, l.secure(r)))
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	u := e.user
	u.session = true
	ctx, cancel := context.WithTimeout(r.Context(), one.ends.Sub(l.Now()))
	defer cancel()
	l.serve(w, r.WithContext(ctx), next, u, &openRequest{entry: e, session: one.id})
}

// byToken serves the user of a token, which programs send.
func (l *LogIn) byToken(w http.ResponseWriter, r *http.Request, next http.Handler, token string) {
	all := *l.users.Load()
	if u, ok := all.byToken(token); ok {
		l.serve(w, r, next, u, &openRequest{entry: all[u.Name]})
		return
	}
	if !l.attempts.count(l.client(r), "", l.Now()) {
		l.outcomes.WithLabelValues("limited").Inc()
		l.answers.limited(w)
		return
	}
	l.outcomes.WithLabelValues("failed").Inc()
	l.answers.form(w)
}

// logIn begins a session for the name and the password of a form, and answers any other POST with the form.
func (l *LogIn) logIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxLogIn)
	name, secret := r.PostFormValue("name"), r.PostFormValue("password")
	if secret == "" {
		l.answers.form(w)
		return
	}
	client, all := l.client(r), *l.users.Load()
	known := zap.Skip() // a name that is unknown may be a password in the wrong field
	if _, is := all[name]; is {
		known = zap.String("user", name)
	}
	if ValidateUserName(name) != nil {
		name = ""
	}
	done, ok := l.attempts.begin(client, name, l.Now())
	if !ok {
		l.outcomes.WithLabelValues("limited").Inc()
		l.Log.Warn("log-in refused: too many have failed", known, zap.Stringer("client", client))
		l.answers.limited(w)
		return
	}
	u, ok := all.check(name, secret)
	done()
	if !ok {
		l.outcomes.WithLabelValues("failed").Inc()
		l.Log.Warn("log-in failed", known, zap.Stringer("client", client))
		l.answers.wrong(w)
		return
	}
	l.attempts.succeeded(client, l.Now())
	l.outcomes.WithLabelValues("ok").Inc()
	l.Log.Info("log-in", known, zap.Stringer("client", client))
	value, ends := l.sessions.begin(all[u.Name], l.Now())
	http.SetCookie(w, cookie(value, ends, l.secure(r)))
	w.Header().Set("Location", localAddress(r))
	w.WriteHeader(http.StatusSeeOther)
}

// localAddress returns where a log-in leads: to the page that was asked for, and never to another host. A browser reads // and \ at
// the beginning of an address as the begin of a host.
func localAddress(r *http.Request) string {
	address := r.URL.EscapedPath()
	if !strings.HasPrefix(address, "/") || strings.Contains(address, "//") || address == logOutPath ||
		strings.HasPrefix(address, actionsPath) || strings.HasPrefix(address, "/static/") {
		return "/"
	}
	if r.URL.RawQuery != "" {
		address += "?" + r.URL.RawQuery
	}
	for _, c := range []byte(address) {
		if c <= ' ' || c >= 0x7f || c == '\\' {
			return "/"
		}
	}
	return address
}

// proxyUser returns the user that a trusted proxy names.
func (l *LogIn) proxyUser(r *http.Request) (User, bool) {
	if l.UserHeader == "" || !l.Proxies.Contains(clientip.Peer(r)) {
		return User{}, false
	}
	names := r.Header.Values(l.UserHeader)
	if len(names) != 1 || ValidateUserName(names[0]) != nil {
		return User{}, false
	}
	u := l.ProxyRights
	if l.RightsHeader != "" {
		u = User{}
		for _, right := range strings.Split(strings.Join(r.Header.Values(l.RightsHeader), ","), ",") {
			u.grant(strings.TrimSpace(right))
		}
	}
	u.Name = names[0]
	return u, u.View
}

// client returns what counts as one client: an address, or the network of an IPv6 address.
func (l *LogIn) client(r *http.Request) netip.Addr {
	return clientip.Client(clientip.Of(r, l.Proxies))
}

// secure reports whether the browser has sent the request over TLS.
func (l *LogIn) secure(r *http.Request) bool {
	return r.TLS != nil || l.Proxies.Contains(clientip.Peer(r)) && r.Header.Get("X-Forwarded-Proto") == "https"
}

//go:embed login
var logInFiles embed.FS

// logInAnswers are the answers to a request of nobody. The form is the same bytes for every path; it has its style in itself, because no file
// is served without a log-in either.
type logInAnswers struct {
	policy                         string
	formPage, wrongPage, limitPage []byte
}

func newLogInAnswers(form bool) (a logInAnswers, err error) {
	page, err := template.ParseFS(logInFiles, "login/login.html")
	if err != nil {
		return a, err
	}
	style, err := logInFiles.ReadFile("login/login.css")
	if err != nil {
		return a, err
	}
	sum := sha256.Sum256(style)
	a.policy = "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
	for _, one := range []struct {
		page    *[]byte
		problem string
	}{
		{&a.formPage, ""},
		{&a.wrongPage, "The name or the password is wrong."},
		{&a.limitPage, "Too many log-ins have failed: wait a minute, and try again."},
	} {
		var out bytes.Buffer
		err := page.Execute(&out, struct {
			Style   template.CSS
			Problem string
			Form    bool
		}{template.CSS(style), one.problem, form})
		if err != nil {
			return a, err
		}
		*one.page = out.Bytes()
	}
	return a, nil
}

func (a logInAnswers) form(w http.ResponseWriter) { a.answer(w, http.StatusUnauthorized, a.formPage) }

func (a logInAnswers) wrong(w http.ResponseWriter) { a.answer(w, http.StatusUnauthorized, a.wrongPage) }

func (a logInAnswers) limited(w http.ResponseWriter) {
	a.answer(w, http.StatusTooManyRequests, a.limitPage)
}

func (a logInAnswers) answer(w http.ResponseWriter, status int, page []byte) {
	w.Header().Set("Content-Security-Policy", a.policy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(page) // the client may be gone
}
