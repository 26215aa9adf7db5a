// Package console serves Headgate's web pages: what a source, its workers and its events are doing, for people. It has no store of
// its own. It reads through pkg/inspect and pkg/state, and acts through pkg/operator.
package console
