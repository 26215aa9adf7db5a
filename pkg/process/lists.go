package process

import (
	"os"
	"strings"

	"github.com/alecthomas/kong"
)

// FileNames are the names of files and folders in a flag, which can be repeated, or a variable. Commas separate several
// in one text; a text that is itself the name of a file or folder is one name.
type FileNames []string

// Decode adds the names of one text.
func (n *FileNames) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("file name", &text); err != nil {
		return err
	}
	if _, err := os.Stat(text); err == nil {
		*n = append(*n, text)
		return nil
	}
	*n = append(*n, splitList(text)...)
	return nil
}

// Keys are signing secrets in a flag, which can be repeated, or a variable. Commas separate several in one text. Keys does
// not parse them: v1, before a key, a common mistake, stays with the key, so that the parser's error names it.
type Keys []string

// Decode adds the keys of one text.
func (k *Keys) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("key", &text); err != nil {
		return err
	}
	parts := splitList(text)
	for i := 0; i < len(parts); i++ {
		key := parts[i]
		if key == "v1" && i+1 < len(parts) {
			i++
			key += "," + parts[i]
		}
		*k = append(*k, key)
	}
	return nil
}

// splitList returns the parts of a text between commas, without white space around them. An empty text has none.
func splitList(text string) []string {
	if text == "" {
		return nil
	}
	parts := strings.Split(text, ",")
	for i, part := range parts {
		parts[i] = strings.TrimSpace(part)
	}
	return parts
}
