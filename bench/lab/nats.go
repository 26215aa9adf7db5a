package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// NATS is one server or a cluster of three, with JetStream.
type NATS struct {
	URL       string
	Dirs      []string // where the nodes keep their streams
	Profiles  []string // addresses of the nodes' profiles
	Processes []*Process
	NC        *nats.Conn
	JS        jetstream.JetStream

	lab     *Lab
	program string
	configs []string
}

// NATS starts servers of a program. With fsync an acknowledged message is on the disk, or on a quorum of disks; without
// it the server writes to the file system and syncs every two minutes, which is its default.
func (l *Lab) NATS(ctx context.Context, program string, nodes int, fsync bool) (*NATS, error) {
	s := &NATS{lab: l, program: program}
	var clients, routes []string
	for range nodes {
		for _, into := range []*[]string{&clients, &routes, &s.Profiles} {
			address, err := Address()
			if err != nil {
				return nil, err
			}
			*into = append(*into, address)
		}
	}
	sync := "2m"
	if fsync {
		sync = "always"
	}
	for i := range nodes {
		dir, err := l.Dir("nats")
		if err != nil {
			return nil, err
		}
		s.Dirs = append(s.Dirs, dir)
		_, profile, _ := strings.Cut(s.Profiles[i], ":")
		text := fmt.Sprintf(`server_name: node-%d
listen: "%s"
prof_port: %s
max_payload: 2MB
jetstream { store_dir: "%s", max_memory_store: 64MB, max_file_store: 1TB, sync_interval: "%s" }
`, i, clients[i], profile, dir, sync)
		if nodes > 1 {
			text += fmt.Sprintf("cluster { name: bench, listen: %q, routes: [ \"nats://%s\" ] }\n", routes[i], strings.Join(routes, `", "nats://`))
		}
		config := filepath.Join(dir, "nats.conf")
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		s.configs = append(s.configs, config)
	}
	s.URL = "nats://" + strings.Join(clients, ",nats://")
	return s, s.Start(ctx)
}

// Start starts the servers, and connects to them when JetStream answers.
func (s *NATS) Start(ctx context.Context) error {
	s.Processes = nil
	for i, config := range s.configs {
		p, err := s.lab.Start(fmt.Sprintf("nats-%d", i), s.program, []string{"--config", config}, nil)
		if err != nil {
			return err
		}
		s.Processes = append(s.Processes, p)
	}
	return s.Processes[0].Await(ctx, func(ctx context.Context) error {
		if s.NC == nil || s.NC.IsClosed() {
			nc, err := nats.Connect(s.URL, nats.MaxReconnects(-1))
			if err != nil {
				return err
			}
			if s.JS, err = jetstream.New(nc); err != nil {
				return err
			}
			s.NC = nc
		}
		_, err := s.JS.AccountInfo(ctx) // a cluster answers once it has a leader
		return err
	})
}

// Stop ends the servers. Their streams stay, for another Start.
func (s *NATS) Stop() error {
	s.NC.Close()
	return s.lab.Stop(s.Processes...)
}

// Size is how much the servers' streams whose names begin with prefix take on the disk, in bytes.
func (s *NATS) Size(prefix string) (int64, error) {
	var all int64
	for _, dir := range s.Dirs {
		streams, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", prefix+"*"))
		if err != nil {
			return 0, err
		}
		for _, stream := range streams {
			err := filepath.WalkDir(stream, func(_ string, e fs.DirEntry, err error) error {
				if err != nil || e.IsDir() {
					return err
				}
				info, err := e.Info()
				if err != nil {
					return err
				}
				if stat, ok := info.Sys().(*syscall.Stat_t); ok {
					all += 512 * stat.Blocks // what is there, and not what is reserved
				}
				return nil
			})
			if err != nil {
				return 0, err
			}
		}
	}
	return all, nil
}

// Heap is how much memory the servers use for what they know, in bytes: what is left after a garbage collection.
func (s *NATS) Heap(ctx context.Context) (int64, error) {
	var all int64
	for _, address := range s.Profiles {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/debug/pprof/heap?gc=1&debug=1", http.NoBody)
		if err != nil {
			return 0, err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		text, err := io.ReadAll(res.Body)
		if err := errors.Join(err, res.Body.Close()); err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(text), "# HeapAlloc = ")
		value, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("heap profile of %s: %w", address, err)
		}
		all += n
	}
	return all, nil
}
