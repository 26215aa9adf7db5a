package doctor

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/headgate/headgate/pkg/watchfile"
)

var settingsChecks = []check{
	{"HG-SET-001", "environment variables", "each HEADGATE_ variable is known", "doctor-settings-and-keys", nothing, (*facts).variables},
	{"HG-SET-002", "settings of the connection to NATS", "the files can be read and hold what they should", "doctor-settings-and-keys", nothing, (*facts).natsSettings},
	{"HG-SET-003", "credentials and certificates for NATS", "end in more than 14 days; fails below 3 days", "doctor-settings-and-keys", nothing, (*facts).natsEnds},
	{"HG-SET-004", "modes of the files of keys", "only their owner can write them", "doctor-settings-and-keys", nothing, (*facts).modes},
}

func (f *facts) variables() finding {
	if len(f.Variables) > 0 {
		return warn("unknown: "+listed(f.Variables), "correct or remove the variable: headgate --help and ingress --help list those that are known")
	}
	return ok("all are known")
}

func (f *facts) natsSettings() finding {
	if err := f.NATS.Check(); err != nil {
		return fail("cannot be used", err.Error())
	}
	return ok("can be used")
}

// natsEnds looks for when the first certificate or JWT ends. Why a file cannot be used is the finding of natsSettings.
func (f *facts) natsEnds() finding {
	var first time.Time
	var of string
	var unread []string
	for _, file := range []struct {
		flag, name string
		end        func([]byte) (time.Time, error)
	}{{"--nats-creds", f.NATS.NATSCreds, credsEnd}, {"--nats-cert", f.NATS.NATSCert, certificateEnd}, {"--nats-ca", f.NATS.NATSCA, certificateEnd}} {
		if file.name == "" {
			continue
		}
		text, err := watchfile.ReadFile(file.name)
		var end time.Time
		if err == nil {
			end, err = file.end(text)
		}
		if err != nil {
			unread = append(unread, file.flag)
		} else if !end.IsZero() && (first.IsZero() || end.Before(first)) {
			first, of = end, file.flag
		}
	}
	if first.IsZero() && len(unread) > 0 {
		return skip("when it ends cannot be read of " + listed(unread))
	}
	if first.IsZero() {
		return ok("none ends")
	}
	left := first.Sub(f.now)
	return graded(left < certificateFail, left < certificateWarn, fmt.Sprintf("%s ends in %s", of, span(left)), "renew the file of "+of)
}

// credsEnd returns when the JWT in a file of credentials ends; the zero time for never.
func credsEnd(text []byte) (time.Time, error) {
	token, err := nkeys.ParseDecoratedJWT(text)
	if err != nil {
		return time.Time{}, err
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, errors.New("it holds no JWT")
	}
	text, err = base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, err
	}
	var claims struct {
		Expires int64 `json:"exp"`
	}
	if err := json.Unmarshal(text, &claims); err != nil || claims.Expires == 0 {
		return time.Time{}, err
	}
	return time.Unix(claims.Expires, 0), nil
}

// certificateEnd returns when the first of the certificates in a file ends.
func certificateEnd(text []byte) (first time.Time, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return time.Time{}, err
		}
		if first.IsZero() || c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	if first.IsZero() {
		return first, errors.New("it has no certificate")
	}
	return first, nil
}

// modes looks for files of keys that others than their owner can write.
func (f *facts) modes() finding {
	files := []string{f.NATS.NATSCreds, f.NATS.NATSNKey, f.NATS.NATSKey, f.CodatKeyFile}
	for _, k := range f.keys {
		files = append(files, k.name)
	}
	var writable []string
	seen := 0
	for _, name := range files {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if seen++; info.Mode().Perm()&0o022 != 0 {
			writable = append(writable, name)
		}
	}
	switch {
	case seen == 0:
		return skip("no setting names a file of keys")
	case len(writable) > 0:
		return warn("others can write "+listed(writable), "chmod go-w the file: who can write it can put a key of their own into it")
	}
	return ok(fmt.Sprintf("%d files", seen))
}
