package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/klauspost/compress/gzhttp"
)

//go:embed static
var static embed.FS

// assets has the address of each file of static, with a hash of its content, so that browsers may keep it for ever.
var assets, assetFiles = readAssets()

func readAssets() (addresses map[string]string, files map[string][]byte) {
	addresses, files = map[string]string{}, map[string][]byte{}
	entries, err := fs.ReadDir(static, "static")
	if err != nil {
		panic(err) // it is embedded
	}
	for _, entry := range entries {
		content, err := static.ReadFile("static/" + entry.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(content)
		name, extension, _ := strings.Cut(entry.Name(), ".")
		address := "/static/" + name + "." + hex.EncodeToString(sum[:6]) + "." + extension
		addresses[entry.Name()], files[address] = address, content
	}
	return addresses, files
}

// asset returns the address of a file of static.
func asset(name string) string { return assets[name] }

// staticFiles serves the files of static. They are the same for all, and hold nothing of a source.
func staticFiles() http.Handler {
	return gzhttp.GzipHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, ok := assetFiles[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(r.URL.Path)))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
}
