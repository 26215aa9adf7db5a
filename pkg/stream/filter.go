package stream

import "strings"

// covers reports whether filter matches every subject that other matches. In both, "*" stands for exactly one token and
// ">" at the end for one or more.
func covers(filter, other string) bool {
	for {
		f, fRest, fMore := strings.Cut(filter, ".")
		o, oRest, oMore := strings.Cut(other, ".")
		switch {
		case f == ">":
			return true
		case o == ">":
			return false // other goes on without end, filter does not
		case f != "*" && f != o:
			return false
		case !fMore || !oMore:
			return fMore == oMore
		}
		filter, other = fRest, oRest
	}
}

// uncovered returns those of others that none of filters covers by itself.
func uncovered(filters, others []string) (missing []string) {
	for _, o := range others {
		found := false
		for _, f := range filters {
			found = found || covers(f, o)
		}
		if !found {
			missing = append(missing, o)
		}
	}
	return missing
}

// overlap reports whether some subject is matched by both filters.
func overlap(a, b string) bool {
	for {
		x, xRest, xMore := strings.Cut(a, ".")
		y, yRest, yMore := strings.Cut(b, ".")
		switch {
		case x == ">" || y == ">":
			return true
		case x != "*" && y != "*" && x != y:
			return false
		case !xMore || !yMore:
			return xMore == yMore
		}
		a, b = xRest, yRest
	}
}
