package console_test

import (
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// hostile are texts that must never become markup. They are put where texts of others come from.
const hostile = `"><script>alert(1)</script><img src=x onerror=alert(1)>'{{.}}`

// checkHTML checks what must hold of every page, whatever it shows.
func checkHTML(t *testing.T, name, body string) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	count, ids, labelled := map[string]int{}, map[string]bool{}, map[string]bool{}
	var walk func(n *html.Node, inLabel bool)
	walk = func(n *html.Node, inLabel bool) {
		if n.Type == html.ElementNode {
			count[n.Data]++
			inLabel = inLabel || n.Data == "label"
			checkElement(t, name, n, inLabel, ids, labelled)
		}
		for child := n.FirstChild; child != nil; child = child.NextSibling {
			walk(child, inLabel)
		}
	}
	walk(root, false)
	for element, want := range map[string]int{"h1": 1, "main": 1, "header": 1, "title": 1, "script": 1, "link": 2} {
		if count[element] != want {
			t.Errorf("%s has %d <%s>; want %d", name, count[element], element, want)
		}
	}
}

func checkElement(t *testing.T, name string, n *html.Node, inLabel bool, ids, labelled map[string]bool) {
	t.Helper()
	attributes := map[string]string{}
	for _, a := range n.Attr {
		attributes[a.Key] = a.Val
		if strings.HasPrefix(a.Key, "on") || a.Key == "style" {
			t.Errorf("%s: <%s> has the attribute %s", name, n.Data, a.Key)
		}
		if a.Key == "href" || a.Key == "src" || a.Key == "action" {
			if !strings.HasPrefix(a.Val, "/") && !strings.HasPrefix(a.Val, "#") && !strings.HasPrefix(a.Val, "https://github.com/headgate/headgate/blob/main/docs/") || strings.HasPrefix(a.Val, "//") {
				t.Errorf("%s: <%s> leads to %q", name, n.Data, a.Val)
			}
		}
		if a.Key == "id" {
			if ids[a.Val] {
				t.Errorf("%s: the id %q is there twice", name, a.Val)
			}
			ids[a.Val] = true
		}
	}
	switch n.Data {
	case "input", "select", "textarea":
		if !inLabel && attributes["aria-label"] == "" && attributes["type"] != "hidden" {
			t.Errorf("%s: <%s name=%q> has no label", name, n.Data, attributes["name"])
		}
	case "script":
		if n.FirstChild != nil {
			t.Errorf("%s has an inline script", name)
		}
	case "style", "iframe", "object", "img":
		t.Errorf("%s has <%s>", name, n.Data)
	case "th":
		if attributes["scope"] == "" {
			t.Errorf("%s: a <th> has no scope", name)
		}
	}
}
