package api

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"
)

// Settings are the settings of a program that calls Codat's API. It embeds them in its own. Without a file of the API key
// it calls nothing.
type Settings struct {
	CodatKeyFile     string        `name:"codat-key-file" placeholder:"FILE" help:"File with the API key of Codat, on a line of its own. It is read again when it changes. Without it, Codat's API is not called."`
	CodatURL         string        `name:"codat-url" default:"https://api.codat.io" help:"Base URL of Codat's API."`
	CodatTimeout     time.Duration `name:"codat-timeout" default:"30s" help:"Time for a call of Codat's API, its answer included."`
	CodatConcurrency int           `name:"codat-concurrency" default:"4" help:"Calls of Codat's API that this process makes at once for one company; Codat allows 10 for all processes."`
}

// maxConcurrency is what Codat allows for a company.
const maxConcurrency = 10

// Enabled reports whether there is an API key.
func (s Settings) Enabled() bool { return s.CodatKeyFile != "" }

// Validate returns an error for a setting that cannot be used.
func (s Settings) Validate() error {
	var errs []error
	if err := validateURL(s.CodatURL); err != nil {
		errs = append(errs, err)
	}
	if s.CodatTimeout <= 0 {
		errs = append(errs, fmt.Errorf("--codat-timeout must be greater than 0s (got %v)", s.CodatTimeout))
	}
	if s.CodatConcurrency < 1 || s.CodatConcurrency > maxConcurrency {
		errs = append(errs, fmt.Errorf("--codat-concurrency must be from 1 to %d (got %d)", maxConcurrency, s.CodatConcurrency))
	}
	return errors.Join(errs...)
}

// validateURL returns an error for a base URL over which the API key could be read. It does not show the URL: it can have a
// password.
func validateURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return errors.New("--codat-url must be a URL such as https://api.codat.io")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("--codat-url must have no user, query or fragment: the API key is read from --codat-key-file")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return errors.New("--codat-url must begin with https:// unless its host is this machine: the API key would be readable on the network")
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
