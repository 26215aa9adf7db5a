package main

import (
	"os"
	"strings"
	"testing"
)

// The worker in the README is the one that compiles in package workers.
func TestREADME_ShowsWorkerThatCompiles(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../../workers/example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```go\n")
	shown, _, ok := strings.Cut(rest, "```")
	if !ok || !strings.Contains(string(example), shown) {
		t.Error("the worker in README.md is not the one in workers/example_test.go: copy it from there")
	}
	if !strings.Contains(string(text), `process.Main("worker-bookkeeper"`) {
		t.Error("README.md does not show the worker's main")
	}
}
