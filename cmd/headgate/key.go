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
	"github.com/headgate/headgate/pkg/signature"
)

// keyring is where a key comes from: flag, environment, file, or the data folder of headgate dev.
type keyring struct {
	Secret     []string `name:"secret" placeholder:"WHSEC" help:"Signing secret, whsec_…. Others can read the flag in the list of processes: prefer the environment, or a file."`
	SecretFile []string `name:"secret-file" placeholder:"FILE" help:"File of the signing secret."`
	Data       string   `name:"data" default:".headgate" placeholder:"FOLDER" help:"Folder of headgate dev's data, with the key that it made."`
}

// key is the key to sign with: the first of those given, else that of the data folder.
func (k keyring) key() (signature.Key, error) {
	given := len(k.Secret)+len(k.SecretFile) > 0
	files := k.SecretFile
	if !given {
		files = []string{keyFile(k.Data)}
	}
	keys, err := (&ingress.Settings{Secret: k.Secret, SecretFile: files}).Keys()
	if !given && errors.Is(err, fs.ErrNotExist) {
		return signature.Key{}, fmt.Errorf("no key to sign with: %s is not there: start headgate dev, name its folder with --data, or give the receiver's key with --secret-file", files[0])
	}
	if err != nil {
		return signature.Key{}, err
	}
	return keys[0], nil
}

// keyFile is where headgate dev keeps the key that it made.
func keyFile(data string) string { return filepath.Join(data, "secret") }

// keyBytes is how long the keys are that Svix makes.
const keyBytes = 24

// ensureKey makes the key of a data folder when there is none. A key that others can read is made private again, and
// then repaired says so. Whoever calls it must have the folder for itself.
func ensureKey(data string) (repaired bool, err error) {
	name := keyFile(data)
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, makeKey(name)
	case err != nil:
		return false, fmt.Errorf("key of the data folder: %w", err)
	case !info.Mode().IsRegular():
		return false, fmt.Errorf("%s is not a plain file: remove it, and a new key is made", name)
	case info.Mode().Perm()&0o077 == 0:
		return false, nil
	}
	if err := os.Chmod(name, 0o600); err != nil {
		return false, fmt.Errorf("%s can be read by others, and that cannot be changed: remove it, and a new key is made: %w", name, err)
	}
	return true, nil
}

// makeKey writes a new key. A file under the name has all of a key, whenever the process is killed.
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
