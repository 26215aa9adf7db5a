package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/headgate/headgate/pkg/codat"
	"github.com/headgate/headgate/pkg/codat/api"
	"github.com/headgate/headgate/pkg/codat/codattest"
	"github.com/headgate/headgate/pkg/process"
)

const (
	// devCompany and devConnection are those of the example events.
	devCompany    = "c0ffee00-0000-4000-8000-00000000000a"
	devConnection = "ca5cade0-0000-4000-8000-00000000000a"
	// devSpeed divides the pauses of the stand-in's webhooks: 28 hours of attempts take half an hour.
	devSpeed = 60
)

// devCodat is the stand-in for Codat of headgate dev. It is nil without --with-codat.
type devCodat struct {
	*codattest.Server
	settings api.Settings
}

// startCodat starts the stand-in, if it is wanted, and writes its API key into the data folder, for programs that read
// --codat-key-file.
func (d *devCmd) startCodat(out io.Writer) (*devCodat, error) {
	if !d.WithCodat {
		return nil, nil
	}
	key, err := d.key()
	if err != nil {
		return nil, err
	}
	file := d.codatKeyFile()
	if err := os.WriteFile(file, []byte(codattest.DefaultKey+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("API key of the stand-in for Codat: %w", err)
	}
	server, err := codattest.Start(codattest.Options{
		Listen: d.CodatListen, Speed: devSpeed,
		Changed: func(p codattest.Push) { _, _ = io.WriteString(out, pushLine(p)) }, // the terminal is gone
	})
	if err != nil {
		return nil, err
	}
	d.CodatListen = strings.TrimPrefix(server.URL(), "http://")
	server.AddCompany(codattest.Company{ID: devCompany, Name: "Larkspur Bakery", Connections: []string{devConnection}})
	server.AddEndpoint(codattest.Endpoint{URL: d.webhook(), Key: key})
	return &devCodat{server, api.Settings{CodatKeyFile: file, CodatURL: d.codatURL(), CodatTimeout: 10 * time.Second, CodatConcurrency: 1}}, nil
}

func (c *devCodat) close() {
	if c != nil {
		c.Close()
	}
}

func (d *devCmd) codatKeyFile() string { return filepath.Join(d.Data, "codat-key") }

// codatArgs are the settings of a program that calls the stand-in: none without one.
func (d *devCmd) codatArgs() []string {
	if !d.WithCodat {
		return nil
	}
	return []string{"--codat-key-file=" + d.codatKeyFile(), "--codat-url=" + d.codatURL()}
}

func (d *devCmd) codatURL() string { return "http://" + dialAddress(d.CodatListen) }

// pushLine is the line of a push whose status has changed, in the columns of devLog.
func pushLine(p codattest.Push) string {
	line := fmt.Sprintf("%-11s %-*s %s at the stand-in for Codat", strings.ToLower(string(p.Status)), typeWidth, fmt.Sprintf("push of %s", p.DataType), p.Key)
	if p.Status == codat.Success {
		line += ", record " + printable(p.Record)
	}
	return line + "\n"
}

// pushExample pushes a direct cost, as a program that uses Codat does. Its end comes by webhook.
func (c *devCodat) pushExample(ctx context.Context, p *process.Process) error {
	if c == nil {
		return nil
	}
	client, err := api.New(c.settings, p.Metrics)
	if err != nil {
		return err
	}
	defer client.Close()
	to := api.Target{Company: devCompany, Connection: devConnection, DataType: codat.DataDirectCosts}
	_, err = client.Create(ctx, to, uuid.NewString(), []byte(`{"reference":"example"}`))
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("example push: %w", err)
	}
	return nil
}

// codatBanner says where the stand-in is, and codatNext what to type next.
func (d *devCmd) codatBanner() string {
	if !d.WithCodat {
		return ""
	}
	return fmt.Sprintf("\n  Codat    %s, a stand-in; its API key is in %s", d.codatURL(), d.codatKeyFile())
}

func (d *devCmd) codatNext() string {
	if !d.WithCodat {
		return ""
	}
	return fmt.Sprintf("\n  curl -H 'Authorization: Basic %s' -d '{\"note\":\"codattest:failed\"}' \\\n    %s/companies/%s/connections/%s/push/%s",
		base64.StdEncoding.EncodeToString([]byte(codattest.DefaultKey)), d.codatURL(), devCompany, devConnection, codat.DataDirectCosts)
}
