package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/headgate/headgate/pkg/clientip"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/console"
	"github.com/headgate/headgate/pkg/doctor"
	"github.com/headgate/headgate/pkg/operator"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/pkg/tlsfiles"
	"github.com/headgate/headgate/pkg/watchfile"
)

// consoleCmd holds the web pages and the users who may see them.
type consoleCmd struct {
	Serve consoleServeCmd `cmd:"" default:"withargs" help:"Serve the web pages. It is the default."`
	User  consoleUserCmd  `cmd:"" help:"Print an entry for the file of users: the hash of a password or of a new token, and rights."`
}

type consoleServeCmd struct {
	AdminListen string `name:"admin-listen" default:":9090" help:"Address (host:port) of /livez, /readyz and /metrics; do not make it public."`
	LogLevel    string `name:"log-level" default:"info" enum:"debug,info,warn,error" help:"Lowest level that is logged: debug, info, warn or error."`
	LogFormat   string `name:"log-format" default:"json" enum:"json,console" help:"Format of log lines: json for programs, console for people."`

	Listen  string   `name:"listen" default:":8070" help:"Address (host:port) of the web pages. Without --tls-cert put a proxy that terminates TLS before it: passwords come as they are typed."`
	TLSCert string   `name:"tls-cert" placeholder:"FILE" help:"File with the certificate chain of the web pages (PEM). It is reloaded when it changes. Without it they are served over HTTP."`
	TLSKey  string   `name:"tls-key" placeholder:"FILE" help:"File with the private key of the certificate of the web pages (PEM). It is reloaded when it changes."`
	Proxies []string `name:"trusted-proxy" placeholder:"CIDR" help:"Address or range of a trusted proxy before the web pages. Its X-Forwarded-For names the client whose failed log-ins are limited, its X-Forwarded-Proto says whether the client uses TLS, and its --user-header who the user is."`

	UsersFile      string        `name:"users-file" placeholder:"FILE" help:"File of users (YAML): names, hashes of passwords or tokens, and rights. headgate console user makes an entry. It is reloaded when it changes: who is removed is logged out."`
	UserHeader     string        `name:"user-header" placeholder:"NAME" help:"Request header in which a --trusted-proxy names the user, such as X-Forwarded-User. The proxy must remove it from what clients send."`
	RightsHeader   string        `name:"rights-header" placeholder:"NAME" help:"Request header in which a --trusted-proxy lists the rights of the user, view, payload and operate, separated by commas. Without it the user has --proxy-rights."`
	ProxyRights    []string      `name:"proxy-rights" default:"view" placeholder:"RIGHT" help:"Rights of a user whom a --trusted-proxy names: view, payload, operate."`
	SessionKeyFile string        `name:"session-key-file" placeholder:"FILE" help:"File of a key of at least 32 bytes, which signs cookies. Without it a key is made at the start, and a restart logs all users out. Processes behind one address need the same key, and a balancer that sends each client to one of them."`
	SessionAge     time.Duration `name:"session-age" default:"12h" help:"How long a log-in lasts."`
	Operate        bool          `name:"operate" help:"Carry out actions of users with the right operate, and show bodies to those with the right payload: both are recorded, which the NATS user must be permitted to. Without it the console reads only."`
	MonitorURL     []string      `name:"monitor-url" placeholder:"URL" help:"Monitoring address of a NATS server, such as http://nats-1:8222. Give one for each server: only this address tells whether a server writes to its disk before it acknowledges."`

	MetricsURL []string     `name:"metrics-url" placeholder:"URL" help:"Metrics of a process, such as http://ingress:9090/metrics; give one for each process."`
	Codat      api.Settings `embed:""`

	stream.NATS `embed:""`
	Source      stream.Source `name:"source" default:"codat" help:"Name of the Codat instance, which names the streams."`
}

// Validate returns an error for a setting that cannot be used. It reads the files that the settings name.
func (c *consoleServeCmd) Validate() error {
	err := errors.Join(process.ValidateListen("--admin-listen", c.AdminListen), process.ValidateListen("--listen", c.Listen), c.NATS.Validate(), c.Source.Validate())
	if err != nil {
		return err
	}
	if _, port, _ := net.SplitHostPort(c.Listen); c.Listen == c.AdminListen && port != "0" {
		return fmt.Errorf("--listen and --admin-listen are both %s: give each its own address", c.Listen)
	}
	if c.SessionAge < time.Minute {
		return fmt.Errorf("--session-age must be at least 1m (got %s)", c.SessionAge)
	}
	certificates := c.certificates()
	if err := certificates.Validate(); err != nil {
		return err
	}
	if c.TLSCert != "" {
		if _, err := certificates.Load(); err != nil {
			return err
		}
	}
	if err := errors.Join(validateAddresses("--monitor-url", c.MonitorURL), validateAddresses("--metrics-url", c.MetricsURL)); err != nil {
		return err
	}
	if c.Codat.Enabled() {
		if err := c.Codat.Validate(); err != nil {
			return err
		}
	}
	options, err := c.logInOptions(zap.NewNop())
	if err != nil {
		return err
	}
	_, err = console.NewLogIn(options)
	return err
}

func (c *consoleServeCmd) certificates() *tlsfiles.Certificates {
	return &tlsfiles.Certificates{Cert: c.TLSCert, Key: c.TLSKey}
}

// logInOptions are the settings that say who the users are.
func (c *consoleServeCmd) logInOptions(log *zap.Logger) (console.LogInOptions, error) {
	proxies, err := clientip.Parse(c.Proxies)
	if err != nil {
		return console.LogInOptions{}, fmt.Errorf("--trusted-proxy: %w", err)
	}
	rights, err := console.ParseRights(c.ProxyRights)
	if err != nil {
		return console.LogInOptions{}, fmt.Errorf("--proxy-rights: %w", err)
	}
	return console.LogInOptions{
		UsersFile: c.UsersFile, UserHeader: c.UserHeader, RightsHeader: c.RightsHeader, ProxyRights: rights, Proxies: proxies,
		SessionKeyFile: c.SessionKeyFile, SessionAge: c.SessionAge, Log: log,
	}, nil
}

// Run serves the pages until ctx ends or a signal stops the process.
func (c *consoleServeCmd) Run(ctx context.Context, t *terminal) error {
	s := process.Settings{AdminListen: c.AdminListen, LogLevel: c.LogLevel, LogFormat: c.LogFormat}
	return process.Serve("console", s, t.err, func(serving context.Context, p *process.Process) error {
		serving, cancel := context.WithCancel(serving)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		return c.serve(serving, p)
	})
}

// serve serves the pages until ctx ends. It does not wait for NATS: until it is there, pages say so.
func (c *consoleServeCmd) serve(ctx context.Context, p *process.Process) error {
	options, err := c.logInOptions(p.Log)
	if err != nil {
		return process.Misconfigured(err)
	}
	options.Metrics = p.Metrics
	users, err := console.NewLogIn(options)
	if err != nil {
		return process.Misconfigured(err)
	}
	nc, err := stream.Connect(ctx, c.NATS, "console", p.Log)
	if err != nil {
		return process.Misconfigured(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	o := console.Options{JS: js, Source: c.Source, Access: users, Log: p.Log, Version: p.Version, Monitors: c.MonitorURL}
	o.Examine = c.examine
	if len(c.MetricsURL) > 0 {
		o.Processes = c.scrapeAll
	}
	if c.Codat.Enabled() {
		client, err := api.New(c.Codat, p.Metrics)
		if err != nil {
			return process.Misconfigured(err)
		}
		defer client.Close()
		o.Endpoints = client.Webhooks
	}
	if c.Operate {
		if o.Operator, err = operator.New(js, c.Source); err != nil {
			return err
		}
		defer o.Operator.Close()
	}
	pages, err := console.New(o)
	if err != nil {
		return err
	}
	p.Health.Add("broker", func(context.Context) error {
		if !nc.IsConnected() {
			return fmt.Errorf("not connected to NATS: %s", nc.Status())
		}
		return nil
	})
	p.Health.Add("users", users.Check)
	running, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop()
	parts.Go(func() { users.Run(running) })
	parts.Go(func() { pages.Run(running) })
	return c.listen(running, p, pages, &parts)
}

// examine makes the checks of headgate doctor, over a connection of their own with the inbox of the console, which its user may hear.
func (c *consoleServeCmd) examine(ctx context.Context) (*doctor.Report, error) {
	checks := c.checks()
	return checks.examineOnce(ctx, func(ctx context.Context) (jetstream.JetStream, func(), error) {
		nc, err := checks.connectAs(ctx, &terminal{out: io.Discard, err: io.Discard}, "console")
		if err != nil {
			return nil, nil, err
		}
		return nc, nc.close, nil
	})
}

// checks are the checks of headgate doctor with what the console is given.
func (c *consoleServeCmd) checks() *doctorCmd {
	return &doctorCmd{
		MonitorURL: c.MonitorURL, MetricsURL: c.MetricsURL, Codat: c.Codat, MaxBody: defaultMaxBody,
		connectFlags: connectFlags{NATS: c.NATS, Source: c.Source, ConnectTimeout: examineConnectTimeout},
	}
}

// examineConnectTimeout bounds the connection of an examination.
const examineConnectTimeout = 5 * time.Second

// scrapeAll reads the metrics of each process.
func (c *consoleServeCmd) scrapeAll(ctx context.Context) []console.Process {
	all := make([]console.Process, len(c.MetricsURL))
	var reading sync.WaitGroup
	for i, address := range c.MetricsURL {
		reading.Go(func() {
			one := console.Process{Address: withoutUser(address)}
			if u, err := url.Parse(address); err == nil { // Validate has parsed it
				one.Address = u.Host
			}
			one.Families, one.Err = scrape(ctx, address)
			all[i] = one
		})
	}
	reading.Wait()
	return all
}

const (
	consoleHeaderTimeout = 5 * time.Second
	consoleReadTimeout   = 10 * time.Second
	consoleWriteTimeout  = time.Minute // for a page, which a preview has half of; a live view has its own
	consoleIdleTimeout   = 2 * time.Minute
	consoleDrain         = 10 * time.Second // for requests in progress
	consoleHeaderBytes   = 16 << 10
)

// listen serves the pages until ctx ends, and then waits for the requests in progress. Live views end at once.
func (c *consoleServeCmd) listen(ctx context.Context, p *process.Process, pages http.Handler, parts *sync.WaitGroup) error {
	ln, err := process.Listen("--listen", c.Listen)
	if err != nil {
		return err
	}
	p.Log.Info("web pages", zap.Stringer("address", ln.Addr()), zap.Bool("tls", c.TLSCert != ""), zap.Bool("operate", c.Operate))
	if c.TLSCert != "" {
		certificates := c.certificates()
		if _, err := certificates.Load(); err != nil {
			return errors.Join(process.Misconfigured(err), ln.Close())
		}
		p.Health.Add("certificate", func(context.Context) error { return process.Warning(certificates.Check(time.Now())) })
		parts.Go(func() { reloadCertificates(ctx, certificates, p.Log) })
		ln = tls.NewListener(ln, certificates.Config())
	}
	server := &http.Server{
		Handler: pages, BaseContext: func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: consoleHeaderTimeout, ReadTimeout: consoleReadTimeout, WriteTimeout: consoleWriteTimeout, IdleTimeout: consoleIdleTimeout,
		MaxHeaderBytes: consoleHeaderBytes, ErrorLog: zap.NewStdLog(p.Log),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), consoleDrain)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		return errors.Join(err, server.Close())
	}
	return nil
}

// reloadCertificates loads the certificates when their files change, until ctx ends.
func reloadCertificates(ctx context.Context, c *tlsfiles.Certificates, log *zap.Logger) {
	watchfile.Watch(ctx, slices.DeleteFunc([]string{c.Cert, c.Key, c.ClientCA}, func(name string) bool { return name == "" }), watchfile.PollInterval, log, func() {
		switch changed, err := c.Load(); {
		case err != nil:
			log.Error("the certificate cannot be loaded: the previous one stays in use", zap.Error(err))
		case changed:
			log.Info("certificate reloaded", zap.Time("ends", c.Leaf().NotAfter))
		}
	})
}
