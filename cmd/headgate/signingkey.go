package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/headgate/headgate/ingress"
	"github.com/headgate/headgate/pkg/process"
	"github.com/headgate/headgate/pkg/signature"
)

// keyFlags are the sources of the signing key: flag, environment, file, or the data folder of headgate dev.
type keyFlags struct {
	Secret     process.Keys      `name:"secret" placeholder:"WHSEC" help:"Signing secret, whsec_…. Others can read the flag in the list of processes: prefer the environment, or a file."`
	SecretFile process.FileNames `name:"secret-file" placeholder:"FILE" help:"File of the signing secret."`
	Data       string            `name:"data" default:".headgate" placeholder:"FOLDER" help:"Folder with the data of headgate dev, and its key."`
}

// key returns the key to sign with: the first given one, or the key of the data folder.
func (k keyFlags) key() (signature.Key, error) {
	keys, err := k.keys()
	if err != nil {
		return signature.Key{}, err
	}
	return keys[0], nil
}

// keys returns the given keys, or the key of the data folder.
func (k keyFlags) keys() ([]signature.Key, error) {
	given := len(k.Secret)+len(k.SecretFile) > 0
	files := k.SecretFile
	if !given {
		files = []string{keyFile(k.Data)}
	}
	keys, err := (&ingress.Settings{Secret: k.Secret, SecretFile: files}).Keys()
	if !given && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no signing secret: %s does not exist: start headgate dev, name its folder with --data, or give the receiver's key with --secret-file", files[0])
	}
	return keys, err
}

// keyFile is the file of the key that headgate dev makes.
func keyFile(data string) string { return filepath.Join(data, "secret") }

// keyBytes is the length of a key made by Svix.
const keyBytes = 24

// ensureKey makes the key of a data folder if it does not exist. When other users could read the key, ensureKey changes its
// mode and returns repaired. The caller must hold the folder's lock.
func ensureKey(data string) (repaired bool, err error) {
	name := keyFile(data)
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, makeKey(name)
	case err != nil:
		return false, fmt.Errorf("key of the data folder: %w", err)
	case !info.Mode().IsRegular():
		return false, fmt.Errorf("%s is not a regular file: remove it, and the next start makes a new key", name)
	case info.Mode().Perm()&0o077 == 0:
		return false, nil
	}
	if err := os.Chmod(name, 0o600); err != nil {
		return false, fmt.Errorf("%s is readable by other users, and its mode cannot be changed: remove it, and the next start makes a new key: %w", name, err)
	}
	return true, nil
}

// makeKey writes a new key atomically.
func makeKey(name string) error {
	secret := make([]byte, keyBytes)
	rand.Read(secret) // it never fails
	text := "whsec_" + base64.StdEncoding.EncodeToString(secret) + "\n"
	f, err := os.CreateTemp(filepath.Dir(name), "secret-*") // with mode 0600
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("make a key: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
