package console_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"

	"github.com/headgate/headgate/pkg/clientip"
	"github.com/headgate/headgate/pkg/console"
	"github.com/headgate/headgate/pkg/stream/streamtest"
)

const (
	password = "correct horse battery"
	token    = "a-token-of-a-program-that-is-long"
)

// passwordHash is that of password.
var passwordHash = func() string {
	hash, err := console.HashPassword(password)
	if err != nil {
		panic(err)
	}
	return hash
}()

// entry is a user of the file.
func entry(name, credential, rights string) string {
	return "- name: " + name + "\n  " + credential + "\n  rights: [" + rights + "]\n"
}

func byPassword() string { return "password: " + passwordHash }
func byToken() string    { return "token: " + console.HashToken(token) }

// writeUsers writes the file of users.
func writeUsers(t *testing.T, file string, entries ...string) {
	t.Helper()
	if err := os.WriteFile(file, []byte("users:\n"+strings.Join(entries, "")), 0o600); err != nil {
		t.Fatal(err)
	}
}

// usersFile returns a new file of users: anna with all rights, viktor who may view, and a program's token.
func usersFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "users.yml")
	writeUsers(t, file, entry("anna", byPassword(), "view, payload, operate"), entry("viktor", byPassword(), "view"), entry("program", byToken(), "view"))
	return file
}

// logIn returns an access by a file of users.
func logIn(t *testing.T, o console.LogInOptions) *console.LogIn {
	t.Helper()
	if o.SessionAge == 0 {
		o.SessionAge = time.Hour
	}
	if o.Log == nil {
		o.Log = zaptest.NewLogger(t)
	}
	l, err := console.NewLogIn(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// greeting answers with the name and the rights of the user.
var greeting = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	u := console.UserOf(r)
	for right, has := range map[string]bool{"view": u.View, "payload": u.Payload, "operate": u.Operate} {
		if has {
			w.Header().Add("Rights", right)
		}
	}
	_, _ = w.Write([]byte(u.Name))
})

// post is a log-in.
func post(path, name, secret string) *http.Request {
	form := url.Values{"name": {name}, "password": {secret}}
	r := httptest.NewRequest(http.MethodPost, "http://console.example"+path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

// serve answers a request, with cookies.
func serve(h http.Handler, r *http.Request, cookies ...*http.Cookie) *httptest.ResponseRecorder {
	for _, c := range cookies {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestLogIn_AnswersEveryPathAlikeWithoutOne(t *testing.T) {
	t.Parallel()
	c, err := console.New(console.Options{
		JS: streamtest.New(t).JS, Source: source, Log: zaptest.NewLogger(t),
		Access: logIn(t, console.LogInOptions{UsersFile: usersFile(t)}),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := serve(c, httptest.NewRequest(http.MethodGet, "/", nil))
	if want.Code != http.StatusUnauthorized || !strings.Contains(want.Body.String(), `name="password"`) || strings.Contains(want.Body.String(), source) {
		t.Fatalf("GET / without a log-in: %d\n%s\nwant 401, the form, and nothing of the source", want.Code, want.Body)
	}
	for _, r := range []*http.Request{
		httptest.NewRequest(http.MethodGet, "/events?type=x", nil),
		httptest.NewRequest(http.MethodGet, "/no-such-page", nil),
		httptest.NewRequest(http.MethodGet, "/static/style.css", nil),
		httptest.NewRequest(http.MethodGet, console.Asset("style.css"), nil),
		httptest.NewRequest(http.MethodPost, "/log-out", nil),
		httptest.NewRequest(http.MethodPost, "/actions/preview", strings.NewReader("kind=pause")),
		httptest.NewRequest(http.MethodDelete, "/jobs/1", nil),
		httptest.NewRequest(http.MethodGet, "//evil.example/", nil),
	} {
		got := serve(c, r, &http.Cookie{Name: "headgate_session", Value: "YW5uYQ.x.99999999999.x"})
		if got.Code != want.Code || got.Body.String() != want.Body.String() {
			t.Errorf("%s %s: %d\n%s\nwant the answer of GET /", r.Method, r.URL, got.Code, got.Body)
		}
		for name, value := range want.Header() {
			if !slices.Equal(got.Header()[name], value) {
				t.Errorf("%s %s: %s is %q; want %q", r.Method, r.URL, name, got.Header()[name], value)
			}
		}
	}
	if got := want.Header().Get("Content-Security-Policy"); !strings.Contains(got, "frame-ancestors 'none'") {
		t.Errorf("Content-Security-Policy of the form is %q; want no frame around it", got)
	}
}

func TestLogIn_KeepsASessionUntilItEnds(t *testing.T) {
	t.Parallel()
	now := time.Now()
	file := usersFile(t)
	h := logIn(t, console.LogInOptions{UsersFile: file, Now: func() time.Time { return now }})
	pages := h.Protect(greeting)
	w := serve(pages, post("/events?type=x", "anna", password))
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/events?type=x" || len(w.Result().Cookies()) != 1 {
		t.Fatalf("log-in: %d, Location %q, %d cookies; want 303 to the page that was asked for and one cookie", w.Code, w.Header().Get("Location"), len(w.Result().Cookies()))
	}
	c := w.Result().Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Secure || c.Path != "/" || c.Expires.Sub(now) > time.Hour {
		t.Errorf("cookie %v; want HttpOnly, SameSite=Strict, for an hour, and without TLS not Secure", c)
	}
	status := func(what string, want int) {
		t.Helper()
		if w := serve(pages, httptest.NewRequest(http.MethodGet, "/", nil), c); w.Code != want {
			t.Errorf("%s: status %d; want %d", what, w.Code, want)
		}
	}
	if w := serve(pages, httptest.NewRequest(http.MethodGet, "/", nil), c); w.Body.String() != "anna" || len(w.Header()["Rights"]) != 3 {
		t.Errorf("in the session: %s with %v; want anna with three rights", w.Body, w.Header()["Rights"])
	}
	anna, viktor := entry("anna", byPassword(), "view, payload, operate"), entry("viktor", byPassword(), "view")
	for _, step := range []struct {
		what  string
		users []string
		want  int
	}{
		{"with other rights", []string{entry("anna", byPassword(), "view")}, http.StatusOK},
		{"with another password", []string{entry("anna", "password: "+strings.Replace(passwordHash, "$2a$", "$2b$", 1), "view"), viktor}, http.StatusUnauthorized},
		{"as before", []string{anna}, http.StatusOK},
		{"without the user", []string{viktor}, http.StatusUnauthorized},
		{"as before", []string{anna, viktor}, http.StatusOK},
	} {
		writeUsers(t, file, step.users...)
		if err := h.Reload(); err != nil {
			t.Fatal(err)
		}
		status(step.what, step.want)
	}
	now = now.Add(time.Hour)
	status("an hour later", http.StatusUnauthorized)
	now = now.Add(-time.Hour)
	status("before", http.StatusOK)
	if w := serve(pages, httptest.NewRequest(http.MethodPost, "/log-out", nil), c); w.Code != http.StatusSeeOther || w.Result().Cookies()[0].MaxAge >= 0 {
		t.Errorf("log-out: %d, cookie %v; want 303, and the cookie deleted", w.Code, w.Result().Cookies())
	}
	status("after the log-out", http.StatusUnauthorized)
}

// A request that lasts, as that of a live view, ends with the log-out, and when its user is removed.
func TestLogIn_EndsLiveViewsWithTheSession(t *testing.T) {
	t.Parallel()
	file := usersFile(t)
	h := logIn(t, console.LogInOptions{UsersFile: file})
	began := make(chan struct{}, 2)
	pages := h.Protect(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-r.Context().Done()
	}))
	for what, end := range map[string]func(c *http.Cookie){
		"the log-out": func(c *http.Cookie) { serve(pages, httptest.NewRequest(http.MethodPost, "/log-out", nil), c) },
		"the removal of the user": func(*http.Cookie) {
			writeUsers(t, file, entry("anna", byPassword(), "view"))
			if err := h.Reload(); err != nil {
				t.Error(err)
			}
		},
	} {
		writeUsers(t, file, entry("program", byToken(), "view"))
		if err := h.Reload(); err != nil {
			t.Fatal(err)
		}
		c := serve(pages, post("/", "program", token)).Result().Cookies()[0]
		ended := make(chan struct{})
		go func() {
			serve(pages, httptest.NewRequest(http.MethodGet, "/live", nil), c)
			close(ended)
		}()
		<-began
		end(c)
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatalf("%s does not end a live view", what)
		}
	}
}

func TestLogIn_IsSecureOverTLS(t *testing.T) {
	t.Parallel()
	proxies, err := clientip.Parse([]string{"192.0.2.1"}) // the peer of httptest
	if err != nil {
		t.Fatal(err)
	}
	pages := logIn(t, console.LogInOptions{UsersFile: usersFile(t), Proxies: proxies}).Protect(greeting)
	r := post("/", "program", token)
	r.Header.Set("X-Forwarded-Proto", "https")
	w := serve(pages, r)
	if c := w.Result().Cookies(); len(c) != 1 || !c[0].Secure || c[0].Name != "__Host-headgate_session" {
		t.Errorf("cookies %v; want a Secure one with the prefix __Host-", c)
	}
}

func TestLogIn_SaysNothingOfWhatIsWrong(t *testing.T) {
	t.Parallel()
	logged, lines := observer.New(zap.InfoLevel)
	pages := logIn(t, console.LogInOptions{UsersFile: usersFile(t), Log: zap.New(logged)}).Protect(greeting)
	wrong := serve(pages, post("/", "anna", "not the password"))
	unknown := serve(pages, post("/", password, "x"))
	if wrong.Code != http.StatusUnauthorized || unknown.Code != wrong.Code || unknown.Body.String() != wrong.Body.String() {
		t.Errorf("a wrong password is answered %d\n%s\nand an unknown name %d\n%s\nwant the same", wrong.Code, wrong.Body, unknown.Code, unknown.Body)
	}
	for _, line := range lines.All() {
		for _, field := range line.Context {
			if strings.Contains(field.String, password) {
				t.Errorf("the log has what was given as a name: %v", line)
			}
		}
	}
}

// A client that fails is refused, and so is one that has failed, under a name under which many have. A right password from elsewhere is taken.
func TestLogIn_LimitsFailures(t *testing.T) {
	t.Parallel()
	pages := logIn(t, console.LogInOptions{UsersFile: usersFile(t)}).Protect(greeting)
	try := func(client, bearer string) int {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = client + ":4711"
		r.Header.Set("Authorization", "Bearer "+bearer)
		return serve(pages, r).Code
	}
	for range 5 {
		if code := try("198.51.100.1", "wrong"); code != http.StatusUnauthorized {
			t.Fatalf("a wrong token: status %d; want 401", code)
		}
	}
	if code := try("198.51.100.1", "wrong"); code != http.StatusTooManyRequests {
		t.Errorf("the sixth wrong token of a client: status %d; want 429", code)
	}
	r := post("/", "anna", password)
	r.RemoteAddr = "198.51.100.1:4711"
	if w := serve(pages, r); w.Code != http.StatusTooManyRequests {
		t.Errorf("a log-in of this client: status %d; want 429", w.Code)
	}
	if w := serve(pages, post("/", "anna", password)); w.Code != http.StatusSeeOther {
		t.Errorf("a log-in of another client: status %d; want 303", w.Code)
	}
	if code := try("198.51.100.2", token); code != http.StatusOK {
		t.Errorf("the token: status %d; want 200", code)
	}
}

func TestLogIn_LeadsToNoOtherHost(t *testing.T) {
	t.Parallel()
	pages := logIn(t, console.LogInOptions{UsersFile: usersFile(t)}).Protect(greeting)
	for path, want := range map[string]string{
		"//evil.example/x": "/", `/\evil.example`: "/%5Cevil.example", "/log-out": "/", "/actions/preview": "/",
	} {
		r := post("/", "program", token)
		r.URL.Path = path
		if got := serve(pages, r).Header().Get("Location"); got != want {
			t.Errorf("after a log-in at %s: Location %q; want %q", path, got, want)
		}
	}
}

func TestLogIn_BelievesOnlyNamedProxies(t *testing.T) {
	t.Parallel()
	proxies, err := clientip.Parse([]string{"10.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	view := console.User{View: true}
	byDefault := logIn(t, console.LogInOptions{UserHeader: "X-User", ProxyRights: view, Proxies: proxies}).Protect(greeting)
	listed := logIn(t, console.LogInOptions{UserHeader: "X-User", RightsHeader: "X-Groups", ProxyRights: view, Proxies: proxies}).Protect(greeting)
	for _, tt := range []struct {
		name, peer string
		pages      http.Handler
		user       []string
		groups     string
		want       int
		rights     int
	}{
		{"a named proxy", "10.1.1.1:1", byDefault, []string{"anna"}, "", 200, 1},
		{"another peer", "192.0.2.9:1", byDefault, []string{"anna"}, "", 401, 0},
		{"no name", "10.1.1.1:1", byDefault, nil, "", 401, 0},
		{"two names", "10.1.1.1:1", byDefault, []string{"anna", "viktor"}, "", 401, 0},
		{"no name that a user can have", "10.1.1.1:1", byDefault, []string{"<b>"}, "", 401, 0},
		{"with rights", "10.1.1.1:1", listed, []string{"anna"}, "staff, view,operate", 200, 2},
		{"without a right", "10.1.1.1:1", listed, []string{"anna"}, "staff", 401, 0},
		{"rights without a header", "10.1.1.1:1", listed, []string{"anna"}, "", 401, 0},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = tt.peer
		r.Header["X-User"] = tt.user
		if tt.groups != "" {
			r.Header.Set("X-Groups", tt.groups)
		}
		w := serve(tt.pages, r)
		if w.Code != tt.want || len(w.Header()["Rights"]) != tt.rights {
			t.Errorf("%s: status %d with %v; want %d with %d rights", tt.name, w.Code, w.Header()["Rights"], tt.want, tt.rights)
		}
	}
}

func TestNewLogIn_RefusesAFileOfUsersThatIsWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "contains no users",
		"users:\n" + entry("a b", byToken(), "view"):                                                   "a name must be",
		"users:\n" + entry("a", byToken(), "view") + entry("a", byToken(), "view"):                     "two users have the name a",
		"users:\n" + entry("a", byToken(), "admin"):                                                    `"admin" is not a right`,
		"users:\n" + entry("a", byToken(), "operate"):                                                  "must include view",
		"users:\n- name: a\n  rights: [view]\n":                                                        "neither a password nor a token",
		"users:\n" + entry("a", "password: hunter2", "view"):                                           "must be a bcrypt hash of cost",
		"users:\n" + entry("a", "password: "+strings.Replace(passwordHash, "$04$", "$10$", 1), "view"): "must be a bcrypt hash of cost",
		"users:\n" + entry("a", "token: sha256:12", "view"):                                            "64 hexadecimal digits",
		"users:\n" + entry("a", "secret: x", "view"):                                                   "remove it, or write one of",
	} {
		file := filepath.Join(t.TempDir(), "users.yml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := console.NewLogIn(console.LogInOptions{UsersFile: file, Log: zap.NewNop()})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s\nis %v; want %q", text, err, want)
		}
	}
	if _, err := console.NewLogIn(console.LogInOptions{UserHeader: "X-User"}); err == nil || !strings.Contains(err.Error(), "--trusted-proxy") {
		t.Errorf("a header without a proxy is %v; want that it needs one", err)
	}
}
