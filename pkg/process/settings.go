package process

import (
	"errors"
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

// Settings are the settings that every process has. A program embeds them in its own.
type Settings struct {
	AdminListen string `name:"admin-listen" default:":9090" help:"Address (host:port) of /livez, /readyz and /metrics; keep it away from the public."`
	LogLevel    string `name:"log-level" default:"info" enum:"debug,info,warn,error" help:"Lowest level that is logged: debug, info, warn or error."`
	LogFormat   string `name:"log-format" default:"json" enum:"json,console" help:"Format of the log: json for programs, console for people."`

	Version kong.VersionFlag `name:"version" env:"-" help:"Print the version and exit."`

	// Given are the names of the settings that flags and environment set, for the log's first line. It has no values:
	// one can be a secret. Parse sets it.
	Given []string `kong:"-"`
	// Unknown are the HEADGATE_ variables in the environment that the program does not read. Parse sets it.
	Unknown []string `kong:"-"`
}

func (s Settings) base() Settings { return s }

// parsedSettings are a pointer to a struct that embeds Settings.
type parsedSettings interface{ parsed(given, unknown []string) }

func (s *Settings) parsed(given, unknown []string) { s.Given, s.Unknown = given, unknown }

// Validate returns an error for an admin listener that is not an address.
func (s Settings) Validate() error {
	return ValidateListen("--admin-listen", s.AdminListen)
}

// ValidateListen returns an error for an address that no listener can have. flag is the flag that set it.
func ValidateListen(flag, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%s must be host:port, as 127.0.0.1:8080 or :8080 (got %q)", flag, address)
	}
	return nil
}

// Logger returns the log that the settings describe. It writes every line to w, through Printable, and
// samples none.
func (s Settings) Logger(w io.Writer) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(s.LogLevel)
	if err != nil {
		return nil, Misconfigured(fmt.Errorf("--log-level must be debug, info, warn or error: %w", err))
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
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(Printable{w})), level)), nil
}

// A PrintFlag is a flag with which a program prints something about itself and ends. No other setting is required with it.
// Settings with such a flag are a Printer.
type PrintFlag bool

// BeforeReset is kong's hook for a flag that is given: it makes every other flag optional.
func (PrintFlag) BeforeReset(app *kong.Kong) error {
	for _, f := range flags(app) {
		f.Required = false
	}
	return nil
}

// A Printer is settings with a PrintFlag.
type Printer interface {
	// Prints reports whether the flag is given. Main then calls run at once, without log, probes and metrics: run prints to
	// standard output and returns.
	Prints() bool
}

// Parse reads args and the environment into grammar, a pointer to a struct with kong's tags, and validates what it
// read. The environment variable of a flag is HEADGATE_ and the flag's name in capitals, unless its tag says
// otherwise. --help and --version print and exit 0. Parse sets Given and Unknown of Settings that grammar embeds, and
// Given of Settings that the selected command embeds. An error is Misconfigured; its text is one line that names the cure, the
// unknown variables, and no secret. The options are added to kong's.
func Parse(name, help string, grammar any, args []string, options ...kong.Option) (*kong.Context, error) {
	parser, err := parser(grammar, append([]kong.Option{kong.Name(name), kong.Description(help)}, options...)...)
	if err != nil {
		return nil, err
	}
	ctx, err := parser.Parse(args)
	unknown := unknownVariables(os.Environ(), variables(flags(parser)))
	if err != nil {
		line := strings.Join(strings.Fields(strings.ReplaceAll(redact(err.Error()), "\n", "; ")), " ")
		// A misspelt variable is often the reason why a setting is missing.
		for _, variable := range unknown {
			line += "; unknown environment variable " + variable
		}
		return nil, Misconfigured(fmt.Errorf("%s (%s)", line, helpOf(name, err)))
	}
	if s, ok := grammar.(parsedSettings); ok {
		s.parsed(given(ctx), unknown)
	}
	if command := ctx.Selected(); command != nil {
		if s, ok := command.Target.Addr().Interface().(parsedSettings); ok {
			s.parsed(given(ctx), nil)
		}
	}
	return ctx, nil
}

// helpOf returns what to type for the help of the command that args named before err, and what it lists.
func helpOf(name string, err error) string {
	lists := "every setting"
	var parse *kong.ParseError
	if errors.As(err, &parse) {
		command := parse.Context.Model.Node
		if selected := parse.Context.Selected(); selected != nil {
			command = selected
			if selected.DefaultCmd != nil {
				command = selected.DefaultCmd
			}
			name = command.FullPath()
		}
		if len(command.Children) > 0 {
			lists = "the commands"
		}
	}
	return name + " --help lists " + lists
}

// Flags returns all flags of grammar and its commands as Parse reads them, with their help and environment variables.
// docs/settings.md is generated from it.
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

// describe is kong's help for a flag, and adds the default where a placeholder hides it.
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
	userinfo   = regexp.MustCompile(`://[^\s"]+@`)
	signingKey = regexp.MustCompile(`whsec_[A-Za-z0-9+/=_-]+`)
)

// redact removes secrets that an error's text can contain: the user and password of a URL, also when the password is not
// encoded, and signing keys.
func redact(text string) string {
	text = userinfo.ReplaceAllString(text, "://…@")
	return signingKey.ReplaceAllString(text, "whsec_…")
}
