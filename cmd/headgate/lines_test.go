package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestLinesForPeople(t *testing.T) {
	const took = 3 * time.Millisecond
	id, typ := zap.String("id", "msg_1"), zap.String("type", "connection.connected")
	spent := zap.Duration("took", took)
	tests := []struct {
		name string
		log  func(*zap.Logger)
		want string
	}{
		{
			"an event that a worker takes",
			func(l *zap.Logger) {
				l.Named("ingress").Info("request", zap.String("outcome", "accepted"), zap.Int("status", 204), spent, id, typ)
			},
			"accepted connection.connected msg_1 204 in 3 ms",
		},
		{
			"an event that none takes",
			func(l *zap.Logger) {
				l.Named("ingress").Info("request", zap.String("outcome", "accepted"), zap.Int("status", 204), spent, id, zap.String("type", "company.created"))
			},
			"accepted company.created msg_1 204 in 3 ms, no worker here takes it",
		},
		{
			"an event that was stored before",
			func(l *zap.Logger) {
				l.Named("ingress").Info("request", zap.String("outcome", "duplicate"), zap.Int("status", 204), spent, id, typ)
			},
			"duplicate connection.connected msg_1 204 in 3 ms, stored before",
		},
		{
			"something unreadable",
			func(l *zap.Logger) {
				l.Named("ingress").Info("request", zap.String("outcome", "quarantined"), zap.Int("status", 204), spent, id, zap.String("quarantine", "not_json"))
			},
			"quarantined - msg_1 204 in 3 ms, not_json: headgate quarantine list",
		},
		{
			"a refusal",
			func(l *zap.Logger) {
				l.Named("ingress").Warn("request", zap.String("outcome", "refused"), zap.Int("status", 401), spent, zap.String("reason", "no_match"))
			},
			"refused - - 401 in 3 ms, no_match",
		},
		{
			"a delivery that is done",
			func(l *zap.Logger) {
				l.Named("worker-connections").Info("event done", zap.String("fate", "done"), id, typ, zap.Int("attempt", 1), spent)
			},
			"handled connection.connected msg_1 by connections, attempt 1 in 3 ms",
		},
		{
			"a delivery that failed",
			func(l *zap.Logger) {
				l.Named("worker-connections").Info("event later", zap.String("fate", "later"), id, typ, zap.Int("attempt", 2), spent, zap.String("cause", "it is closed"))
			},
			"failed connection.connected msg_1 by connections, attempt 2 in 3 ms: it is closed",
		},
		{
			"a delivery that was given up",
			func(l *zap.Logger) {
				l.Named("worker-connections").Warn("event dead", zap.String("fate", "dead"), id, typ, zap.Int("attempt", 12), spent, zap.String("cause", "it is \x1b[31mclosed"))
			},
			`gave up connection.connected msg_1 by connections, attempt 12 in 3 ms: it is \x1b[31mclosed: headgate dead list`,
		},
		{
			"a redrive",
			func(l *zap.Logger) {
				l.Named("worker-connections").Info("event done", zap.String("fate", "done"), id, typ, zap.Int("attempt", 1), spent, zap.String("redrive", "monday"))
			},
			"handled connection.connected msg_1 by connections, attempt 1 in 3 ms, redrive monday",
		},
		{
			"a fate that has no other word",
			func(l *zap.Logger) {
				l.Named("worker-connections").Warn("event lost", zap.String("fate", "lost"), id, typ, zap.Int("attempt", 1), spent)
			},
			"lost connection.connected msg_1 by connections, attempt 1 in 3 ms",
		},
		{
			"what nobody needs to see",
			func(l *zap.Logger) {
				l.Named("worker-connections").Debug("event settled", zap.String("fate", "settled"), id, typ)
			},
			"",
		},
		{
			"anything else",
			func(l *zap.Logger) { l.Info("working") },
			"",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out, below screen
			tt.log(linesOver(&out, &below, zapcore.WarnLevel).Named("headgate"))
			if got := strings.Join(strings.Fields(out.String()), " "); got != tt.want {
				t.Errorf("it prints\n%q; want\n%q", got, tt.want)
			}
			if below.String() != "" {
				t.Errorf("it is logged too: %s", &below)
			}
		})
	}
}

// linesOver is a log whose lines go to out, over one of a level.
func linesOver(out, below *screen, level zapcore.Level) *zap.Logger {
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), below, level)
	return zap.New(&lines{core, out, []string{"connection.connected"}})
}

func (s *screen) Sync() error { return nil }

func TestTheLogBelowLines(t *testing.T) {
	tests := []struct {
		name        string
		level       zapcore.Level
		log         func(*zap.Logger)
		out, logged bool
	}{
		{"a request at a quiet level", zapcore.WarnLevel, func(l *zap.Logger) { l.Info("request") }, true, false},
		{"a refusal at a quiet level", zapcore.WarnLevel, func(l *zap.Logger) { l.Warn("request") }, true, false},
		{"a request that failed at a quiet level", zapcore.WarnLevel, func(l *zap.Logger) { l.Error("request") }, true, true},
		{"a request at a talkative level", zapcore.InfoLevel, func(l *zap.Logger) { l.Info("request") }, true, true},
		{"something that is no request", zapcore.WarnLevel, func(l *zap.Logger) { l.With(zap.Int("n", 1)).Warn("disconnected", zap.Error(errors.New("away"))) }, false, true},
		{"something that is no request, too quiet", zapcore.WarnLevel, func(l *zap.Logger) { l.Info("working") }, false, false},
		{"something quiet at the quietest level", zapcore.DebugLevel, func(l *zap.Logger) { l.Debug("event settled") }, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out, below screen
			tt.log(linesOver(&out, &below, tt.level))
			if got := out.String() != ""; got != tt.out {
				t.Errorf("it prints %q; want a line: %v", out.String(), tt.out)
			}
			if got := below.String() != ""; got != tt.logged {
				t.Errorf("it logs %q; want a line: %v", below.String(), tt.logged)
			}
		})
	}
}

func TestMatches(t *testing.T) {
	tests := []struct {
		name, typ string
		want      bool
	}{
		{"connection.connected", "connection.connected", true},
		{"connection.connected", "connection.deleted", false},
		{"*.write.successful", "invoices.write.successful", true},
		{"*.write.successful", "write.successful", false},
		{"read.completed", "read.completed.initial", false},
	}
	for _, tt := range tests {
		if got := matches(tt.name, tt.typ); got != tt.want {
			t.Errorf("matches(%q, %q) = %v; want %v", tt.name, tt.typ, got, tt.want)
		}
	}
}
