package codat

import (
	"bytes"
	"slices"
	"strings"
	"time"
)

// Head is what Read finds in a body of any type. Ids are as in the body: they can have any
// characters and any length.
type Head struct {
	Type          string    // canonical if known, otherwise as Codat names it
	EventID       string    // Codat's own id of the event; not the id that the signature covers
	Company       string    // "" when the event has none
	Connection    string    // set when there is exactly one
	Connections   []string  // all, each once; in ascending order when there are several
	PushOperation string    // the push operation key of an event about a write
	Platform      string    // the four-letter key of the platform
	Generated     time.Time // in UTC; zero when absent or unreadable
}

// Read reads the head of a body. It returns an ErrUnreadable when the body is not a JSON
// object or has no type; with ErrNoType the head has everything except the type. The
// canonical type is the name in the [Catalog], also of a legacy rule, whose type is a
// sentence in the body, and of the misspellings in Codat's documentation. Read does not
// check that a type is valid (ValidateType).
//
//   - A member that is null, or of another JSON type than documented, counts as absent.
//   - Of members with the same name, the last one that is not absent counts, as a whole.
//   - Names are matched without regard to the case of ASCII letters, as encoding/json does:
//     legacy bodies come in both cases.
//   - Bytes that are not UTF-8 become U+FFFD in what is returned, as in encoding/json.
//   - A byte order mark is not JSON. Few readers downstream would accept it.
//   - Nesting deeper than 10,000 is refused as not JSON, the limit of encoding/json; a
//     number is never converted, so that its size does not matter.
func Read(body []byte) (Head, error) {
	var (
		eventType, ruleType, plainType, id, alertID, generated []byte
		data, companyID, connectionID                          []byte
		p                                                      payload
	)
	var lower [longestName]byte
	_, err := object(body, func(name, rest []byte) int {
		key := string(fold(lower[:0], name))
		if key == "payload" && rest[0] == '{' {
			p = payload{}
			return p.read(rest)
		}
		end := valueEnd(rest, maxDepth-1)
		if end < 0 {
			return end
		}
		switch value := rest[:end]; key {
		case "eventtype":
			keep(&eventType, value, '"')
		case "ruletype":
			keep(&ruleType, value, '"')
		case "type":
			keep(&plainType, value, '"')
		case "id":
			keep(&id, value, '"')
		case "alertid":
			keep(&alertID, value, '"')
		case "generateddate":
			keep(&generated, value, '"')
		case "data":
			keep(&data, value, '{')
		case "companyid":
			keep(&companyID, value, '"')
		case "dataconnectionid":
			keep(&connectionID, value, '"')
		}
		return end
	})
	if err != nil {
		return Head{}, err
	}
	h := Head{
		Type:      typeOf(eventType, ruleType, plainType),
		EventID:   first(id, alertID),
		Generated: parseTime(text(generated)),
	}
	h.readPayload(p)
	h.readRule(companyID, connectionID, data)
	if len(h.Connections) == 1 {
		h.Connection = h.Connections[0]
	}
	if h.Type == "" {
		return h, ErrNoType
	}
	return h, nil
}

// A payload has the values of an enveloped event's payload from which a Head is made.
type payload struct {
	id, companyID, company, connectionID, connection, dataTypes []byte
}

// read reads the object with which b begins, and returns the index behind it, less than 0 when it is not valid.
func (p *payload) read(b []byte) int {
	var lower [longestName]byte
	return visitMembers(b, func(name, rest []byte) int {
		end := valueEnd(rest, maxDepth-2)
		if end < 0 {
			return end
		}
		switch value := rest[:end]; string(fold(lower[:0], name)) {
		case "id":
			keep(&p.id, value, '"')
		case "companyid":
			keep(&p.companyID, value, '"')
		case "referencecompany":
			keep(&p.company, value, '{')
		case "connectionid":
			keep(&p.connectionID, value, '"')
		case "connection":
			keep(&p.connection, value, '{')
		case "datatypes":
			keep(&p.dataTypes, value, '[')
		}
		return end
	})
}

// readPayload sets the ids of an enveloped event. The payload's own id means three
// things: the company in company.*, the push operation in *.write.*, and otherwise
// something that is not in a Head.
func (h *Head) readPayload(p payload) {
	var of []byte
	if strings.HasPrefix(h.Type, "company.") {
		of = p.id
	}
	h.Company = first(member(p.company, "id"), of, p.companyID)
	h.connect(member(p.connection, "id"))
	h.connect(p.connectionID)
	h.connectAll(p.dataTypes)
	h.Platform = text(member(p.connection, "integrationkey"))
	if strings.Contains(h.Type, ".write.") {
		h.PushOperation = text(p.id)
	}
}

// readRule sets the ids of a legacy rule that no payload has set.
func (h *Head) readRule(companyID, connectionID, data []byte) {
	if h.Company == "" {
		h.Company = text(companyID)
	}
	h.connect(connectionID)
	h.readData(data)
}

// readData reads the ids that a legacy rule has in its Data.
func (h *Head) readData(data []byte) {
	var connectionID, key, guid, platform []byte
	for name, value := range members(data) {
		switch string(name) {
		case "dataconnectionid":
			keep(&connectionID, value, '"')
		case "pushoperationkey":
			keep(&key, value, '"')
		case "pushoperationguid":
			keep(&guid, value, '"')
		case "platformkey":
			keep(&platform, value, '"')
		}
	}
	h.connect(connectionID)
	if h.PushOperation == "" {
		h.PushOperation = first(key, guid)
	}
	if h.Platform == "" {
		h.Platform = text(platform)
	}
}

// connect sets the only connection, unless a place that comes before has named one.
func (h *Head) connect(id []byte) {
	if s := text(id); s != "" && len(h.Connections) == 0 {
		h.Connections = []string{s}
	}
}

// connectAll sets the connections that a read went over, unless a place that comes
// before has named one.
func (h *Head) connectAll(dataTypes []byte) {
	if len(h.Connections) > 0 {
		return
	}
	var last []byte
	for entry := range elements(dataTypes) {
		id := member(entry, "connectionid")
		if bytes.Equal(id, last) { // nearly always: one connection, many data types
			continue
		}
		last = id
		if s := text(id); s != "" {
			h.Connections = append(h.Connections, s)
		}
	}
	slices.Sort(h.Connections)
	h.Connections = slices.Compact(h.Connections)
}

// typeOf returns the canonical type from the first of its places that has one.
func typeOf(eventType, ruleType, plainType []byte) string {
	for _, value := range [][]byte{eventType, ruleType, plainType} {
		if s := canonical(value); s != "" {
			return s
		}
	}
	return ""
}

// canonical maps a type as it came, a JSON string, to its name in the catalog.
func canonical(value []byte) string {
	if len(value) < 2 {
		return ""
	}
	if name, ok := names[string(value[1:len(value)-1])]; ok { // without an allocation
		return name
	}
	s := text(value)
	if name, ok := names[s]; ok {
		return name
	}
	if name, ok := rules[normal(s)]; ok && !strings.Contains(s, ".") {
		return name
	}
	return s
}

// normal is a rule's type without what Codat writes differently from time to time: the
// case of letters, blanks, hyphens, parentheses.
func normal(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		}
		return -1
	}, s)
}

// first returns the first of some texts that is not empty.
func first(values ...[]byte) string {
	for _, value := range values {
		if s := text(value); s != "" {
			return s
		}
	}
	return ""
}
