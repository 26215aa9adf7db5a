package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the kernel's accounts: it tells every program 100 in a second, whatever it counts in itself.
const tick = time.Second / 100

// CPU is how much time processes have computed so far, in the programs and in the kernel for them.
func CPU(processes ...*Process) (time.Duration, error) {
	var all time.Duration
	for _, p := range processes {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
		if err != nil {
			return 0, fmt.Errorf("%s: %w", p.Name, err)
		}
		// The name stands in parentheses and can hold anything; behind it the state is field 3, utime 14, stime 15.
		ticks, err := sum(strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])), 14-3, 15-3)
		if err != nil {
			return 0, fmt.Errorf("%s: accounts: %w", p.Name, err)
		}
		all += ticks
	}
	return all, nil
}

// Machine is how much time the whole machine has computed so far.
func Machine() (time.Duration, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	// cpu user nice system idle iowait irq softirq steal
	return sum(strings.Fields(line), 1, 2, 3, 6, 7, 8)
}

func sum(fields []string, numbers ...int) (time.Duration, error) {
	var ticks time.Duration
	for _, i := range numbers {
		if i >= len(fields) {
			return 0, errors.New("too short")
		}
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += time.Duration(n)
	}
	return ticks * tick, nil
}

// Memory is what a process has in memory now, and the most that it ever had, in bytes.
func (p *Process) Memory() (now, most int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", p.Name, err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		var into *int64
		switch name {
		case "VmRSS":
			into = &now
		case "VmHWM":
			into = &most
		default:
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %s: %w", p.Name, name, err)
		}
		*into = kib << 10
	}
	return now, most, nil
}
