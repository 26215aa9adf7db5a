package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestWrite_SharesFilesUnderAnyUmask(t *testing.T) { // not parallel: the umask is the process's
	defer syscall.Umask(syscall.Umask(0o077))
	root := t.TempDir()
	if err := write(root, map[string][]byte{"rules.yml": []byte("groups: []\n")}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(root, "rules.yml")); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the file = %v, %v; want the mode 644", info.Mode(), err)
	}
}
