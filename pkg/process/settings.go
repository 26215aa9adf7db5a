package process

import (
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Settings are the settings that every process has. Embed them.
type Settings struct {
	AdminListen string `name:"admin-listen" default:":9090" help:"Address (host:port) of /livez, /readyz and /metrics; keep it away from the public."`
	LogLevel    string `name:"log-level" default:"info" enum:"debug,info,warn,error" help:"Least level that is logged: debug, info, warn or error."`
	LogFormat   string `name:"log-format" default:"json" enum:"json,console" help:"How a log line looks: json for programs, console for people."`

	Version kong.VersionFlag `name:"version" env:"-" help:"Print the version and exit."`

	// Given are the names of the settings that flags and environment set. Parse fills it, for the log's first line:
	// the names, because a value may be a secret.
	Given []string `kong:"-"`
}

func (s Settings) base() Settings { return s }

func (s *Settings) given(names []string) { s.Given = names }

// Validate reports an admin listener that is no address.
func (s Settings) Validate() error {
	return ValidateListen("--admin-listen", s.AdminListen)
}

// ValidateListen reports an address that nothing can listen on; flag is the flag that set it.
func ValidateListen(flag, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%s: %q is no address to listen on: give host:port, as in 127.0.0.1:8080 or :8080", flag, address)
	}
	return nil
}

// Logger makes the log that the settings describe and that writes to w. Every line is written: nothing is sampled.
func (s Settings) Logger(w io.Writer) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(s.LogLevel)
	if err != nil {
		return nil, Misconfigured(fmt.Errorf("--log-level: %w: give debug, info, warn or error", err))
	}
	format := zap.NewProductionEncoderConfig()
	format.TimeKey = "time"
	format.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoder := zapcore.NewJSONEncoder(format)
	if s.LogFormat == "console" {
		format.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		format.EncodeDuration = zapcore.StringDurationEncoder
		format.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(format)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level)), nil
}

// Parse reads args and the environment into grammar, a pointer to a struct with kong's tags, and validates what it
// read. The environment variable of a flag is HEADGATE_ and the flag's name in capitals, unless its tag says
// otherwise. --help and --version print and exit 0. An error is Misconfigured, and its text is one line that names
// the cure and no secret.
func Parse(name, help string, grammar any, args []string, options ...kong.Option) (*kong.Context, error) {
	parser, err := parser(grammar, append([]kong.Option{kong.Name(name), kong.Description(help)}, options...)...)
	if err != nil {
		return nil, err
	}
	ctx, err := parser.Parse(args)
	// A misspelt variable comes first: it is often why something else is missing.
	if unknown := checkEnvironment(os.Environ(), variables(parser)); unknown != nil {
		err = unknown
	}
	if err != nil {
		line := strings.Join(strings.Fields(redact(err.Error())), " ")
		return nil, Misconfigured(fmt.Errorf("%s (%s --help lists every setting)", line, name))
	}
	if s, ok := grammar.(interface{ given([]string) }); ok {
		s.given(given(ctx))
	}
	return ctx, nil
}

// Flags are all flags of grammar and its commands as Parse knows them, with their help and environment variables.
// Tests and tables in the documentation are made from it.
func Flags(grammar any) ([]*kong.Flag, error) {
	parser, err := parser(grammar)
	if err != nil {
		return nil, err
	}
	return flags(parser), nil
}

func parser(grammar any, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(grammar, append([]kong.Option{
		kong.DefaultEnvars("HEADGATE"),
		kong.Vars{"version": Version()},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}),
		kong.ValueFormatter(describe),
	}, options...)...)
}

// describe is kong's line of help, with the default also where a placeholder hides it.
func describe(v *kong.Value) string {
	text := kong.DefaultHelpValueFormatter(v)
	if v.Flag != nil && v.HasDefault && v.Flag.PlaceHolder != "" {
		text += " Default: " + v.Default + "."
	}
	return text
}

func flags(parser *kong.Kong) []*kong.Flag {
	var all []*kong.Flag
	var walk func(*kong.Node)
	walk = func(n *kong.Node) {
		for _, f := range n.Flags {
			if f.Name != "help" {
				all = append(all, f)
			}
		}
		for _, child := range n.Children {
			walk(child)
		}
	}
	walk(parser.Model.Node)
	return all
}

func variables(parser *kong.Kong) []string {
	var names []string
	for _, f := range flags(parser) {
		names = append(names, f.Envs...)
	}
	return names
}

func given(ctx *kong.Context) []string {
	names := []string{}
	for _, f := range ctx.Flags() {
		onLine := slices.ContainsFunc(ctx.Path, func(p *kong.Path) bool { return p.Flag == f })
		inEnvironment := slices.ContainsFunc(f.Envs, func(name string) bool { _, ok := os.LookupEnv(name); return ok })
		if onLine || inEnvironment {
			names = append(names, f.Name)
		}
	}
	slices.Sort(names)
	return names
}

var (
	userinfo   = regexp.MustCompile(`://[^/\s@"]+@`)
	signingKey = regexp.MustCompile(`whsec_[A-Za-z0-9+/=_-]*`)
)

// redact takes out what an error's text may carry along: the user and password of an address, a signing key.
func redact(text string) string {
	text = userinfo.ReplaceAllString(text, "://…@")
	return signingKey.ReplaceAllString(text, "whsec_…")
}
