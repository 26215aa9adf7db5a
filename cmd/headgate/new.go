package main

import (
	"context"
	"errors"
	"fmt"
	"go/format"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/state"
	"github.com/headgate/headgate/pkg/stream"
	"github.com/headgate/headgate/workers/builtin"
)

// newCmd writes the beginning of something new.
type newCmd struct {
	Worker newWorkerCmd `cmd:"" help:"Write the five files of a built-in worker, which build and whose test passes, in a clone of Headgate's repository. It is the worker of docs/add-a-worker.md under another name."`
}

// newWorkerCmd writes the files of docs/add-a-worker.md under the name of a new worker.
type newWorkerCmd struct {
	Name       string `arg:"" help:"Name of the worker, [a-z][a-z0-9-]{0,30} without a dash at its end, such as failures. It never changes."`
	Repository string `name:"repository" env:"-" default:"." placeholder:"FOLDER" help:"Folder of the clone."`
}

const (
	workerPage   = "docs/add-a-worker.md"
	workerList   = "workers/builtin/builtin.go"
	workerOfPage = "failures" // the name of the worker on the page
	filesOfPage  = 5
	modulePath   = "github.com/headgate/headgate"
)

// A sourceFile is a file of a repository and its text.
type sourceFile struct{ name, text string }

// Run writes the files and prints their names. It overwrites nothing: when one of them exists, it writes none. On an error
// it removes those that it wrote.
func (c *newWorkerCmd) Run(_ context.Context, t *terminal) error {
	files, err := c.files()
	if err != nil {
		return process.Misconfigured(err)
	}
	for _, f := range files {
		if f.name == workerList {
			continue
		}
		switch _, err := os.Lstat(c.path(f.name)); {
		case err == nil:
			return process.Misconfigured(fmt.Errorf("%s exists: choose another name, or remove it; nothing was written", f.name))
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	if err := c.writeAll(files); err != nil {
		return err
	}
	for _, f := range files {
		fmt.Fprintln(t.out, f.name)
	}
	fmt.Fprintf(t.err, "next: make generate, then go test ./workers/%s; %s has the rest\n", c.Name, workerPage)
	return nil
}

func (c *newWorkerCmd) path(name string) string { return filepath.Join(c.Repository, name) }

// writeAll writes new files, and last the list of workers in place of the old one. On an error it removes the new files, and
// their folders when these are then empty.
func (c *newWorkerCmd) writeAll(files []sourceFile) (err error) {
	var folders, written []string
	defer func() {
		if err == nil {
			return
		}
		var left error
		for _, path := range written {
			left = errors.Join(left, os.Remove(path))
		}
		for _, folder := range folders {
			_ = os.Remove(folder) // fails when the folder has other files
		}
		if left != nil {
			err = errors.Join(err, left)
			return
		}
		err = fmt.Errorf("%w; nothing was written", err)
	}()
	for _, f := range files {
		if f.name == workerList {
			if err := replaceFile(c.path(f.name), f.text); err != nil {
				return err
			}
			continue
		}
		folder := filepath.Dir(c.path(f.name))
		folders = append(folders, folder)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		file, err := os.OpenFile(c.path(f.name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		written = append(written, c.path(f.name))
		_, err = file.WriteString(f.text)
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// replaceFile replaces the text of a file atomically, and keeps its mode.
func replaceFile(path, text string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	if err = errors.Join(err, file.Chmod(info.Mode().Perm()), file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

// files returns the files of the page under the worker's name, the list of workers last.
func (c *newWorkerCmd) files() ([]sourceFile, error) {
	if err := (stream.WorkerSpec{Name: c.Name, State: []string{c.Name}}).Validate(); err != nil {
		return nil, err
	}
	module, err := os.ReadFile(c.path("go.mod"))
	if err != nil || !strings.HasPrefix(string(module), "module "+modulePath+"\n") {
		return nil, fmt.Errorf("%q is not a clone of Headgate's repository: run the command in one, or name it with --repository; docs/own-worker.md is about a worker in another repository", c.Repository)
	}
	page, err := os.ReadFile(c.path(workerPage))
	if err != nil {
		return nil, err
	}
	list, err := os.ReadFile(c.path(workerList))
	if err != nil {
		return nil, err
	}
	files := pageFiles(string(page))
	if len(files) != filesOfPage {
		return nil, fmt.Errorf("%s has %d files; want %d", workerPage, len(files), filesOfPage)
	}
	if err := c.free(string(list), files); err != nil {
		return nil, err
	}
	for i, f := range files {
		files[i] = sourceFile{c.renamed(f.name), c.renamed(f.text)}
		if f.name == workerList {
			text, err := withLines(string(list), files[i].text)
			if err != nil {
				return nil, err
			}
			files[i] = sourceFile{workerList, text}
		}
	}
	last := slices.IndexFunc(files, func(f sourceFile) bool { return f.name == workerList })
	if last < 0 {
		return nil, fmt.Errorf("%s does not have %s", workerPage, workerList)
	}
	return append(slices.Delete(slices.Clone(files), last, last+1), files[last]), nil
}

// pageFile is a file on the page: a heading with its path, and the first block of code after it.
var pageFile = regexp.MustCompile("(?ms)^### \\d+\\. `([^`]+)`\n.*?^```[a-z]+\n(.*?)^```$")

func pageFiles(page string) (files []sourceFile) {
	for _, f := range pageFile.FindAllStringSubmatch(page, -1) {
		files = append(files, sourceFile{f[1], f[2]})
	}
	return files
}

// packageName is the name of the worker's package: its own without dashes, which no identifier has.
func (c *newWorkerCmd) packageName() string { return strings.ReplaceAll(c.Name, "-", "") }

// free returns an error for a name that another worker, a state or a user of NATS has, and that the code of the files has for
// something else.
func (c *newWorkerCmd) free(list string, files []sourceFile) error {
	taken := slices.Concat(roles(), reservedNames, []string{state.QuotaName})
	for _, w := range builtin.Workers() {
		taken = append(taken, w.Spec.State...)
	}
	if slices.Contains(taken, c.Name) || strings.Contains(list, `/workers/`+c.Name+`"`) {
		return fmt.Errorf("a worker, a user of NATS or a state named %q exists: choose another name", c.Name)
	}
	text := list
	for _, f := range files {
		if strings.HasSuffix(f.name, ".go") {
			text += f.text
		}
	}
	name := c.packageName()
	if name != workerOfPage && identifiers(text)[name] || token.IsKeyword(name) || slices.Contains(notPackages, name) {
		return fmt.Errorf("%q has another meaning in the code of a worker: choose another name", c.Name)
	}
	return nil
}

// notPackages are the names of packages, or of their folders, with which Go imports none.
var notPackages = []string{"documentation", "init", "internal", "main", "testdata", "vendor"}

// identifiers returns the identifiers in Go code.
func identifiers(code string) map[string]bool {
	all := map[string]bool{}
	var s scanner.Scanner
	s.Init(token.NewFileSet().AddFile("", -1, len(code)), []byte(code), nil, 0)
	for {
		_, what, text := s.Scan()
		switch what {
		case token.EOF:
			return all
		case token.IDENT:
			all[text] = true
		}
	}
}

// nameOfPage is the page's name where it is that of the package, in Go code and in the names of Go files, or else that of the
// worker. They differ when the worker's name has a dash.
var nameOfPage = regexp.MustCompile(`((?:^|\n)(?:// P|p)ackage )failures|failures(\.[A-Z]|\.go|_test)|failures`)

// renamed returns a text of the page with the worker's name in place of the page's own.
func (c *newWorkerCmd) renamed(text string) string {
	return nameOfPage.ReplaceAllStringFunc(text, func(match string) string {
		name := c.packageName()
		if match == workerOfPage {
			name = c.Name
		}
		return strings.Replace(match, workerOfPage, name, 1)
	})
}

// withLines adds the lines of the page to the list of workers: an import, which is sorted among the others, and the last entry.
func withLines(list, lines string) (string, error) {
	imported, entry, _ := strings.Cut(strings.TrimRight(lines, "\n"), "\n")
	for _, add := range []struct{ before, line string }{{"\n)\n", imported}, {"\n\t}\n\tslices.Sort", entry}} {
		head, rest, ok := strings.Cut(list, add.before)
		if !ok {
			return "", fmt.Errorf("%s has no place for %q: add it by hand, as %s says", workerList, strings.TrimSpace(add.line), workerPage)
		}
		list = head + "\n" + add.line + add.before + rest
	}
	formatted, err := format.Source([]byte(list))
	return string(formatted), err
}
