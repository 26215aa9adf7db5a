package codat

import (
	"bytes"
	"slices"
	"strings"
	"time"
)

// Head is what can be read from a body without knowing its type. Ids are as they stand
// in the body: they can hold any characters and be of any length.
type Head struct {
	Type          string    // canonical where it is known, else as Codat names it
	EventID       string    // Codat's own id of the event; not the id that the signature covers
	Company       string    // "" when the event has none
	Connection    string    // set when there is exactly one
	Connections   []string  // all, each once; in ascending order when there are several
	PushOperation string    // the push operation key of an event about a write
	Platform      string    // the four-letter key of the platform
	Generated     time.Time // in UTC; zero when the event does not say, or says it unreadably
}

// Read reads the head of a body. It fails when the body is no JSON object or names no
// type; the error is an ErrUnreadable. With ErrNoType the head holds all but the type.
// The canonical type is the name in the [Catalog]: of a legacy rule, whose type is a
// sentence on the wire, and of the misspellings in Codat's own documentation. Read does
// not judge whether a type fits a subject.
//
// Where a body is odd, Read decides as follows.
//   - A member that is null, or of another kind than documented, is as if it were absent.
//   - Of members with the same name the last one that is not as if absent counts, as a whole.
//   - Names are matched without regard to the case of ASCII letters, as encoding/json does:
//     legacy bodies come in both cases.
//   - Bytes that are not UTF-8 become U+FFFD in what is returned, as in encoding/json.
//   - A byte order mark is not JSON. Few readers downstream would accept it.
//   - Nesting deeper than 10,000 is refused as not JSON, the limit of encoding/json; a
//     number is never converted, so that its size does not matter.
func Read(body []byte) (Head, error) {
	var (
		eventType, ruleType, plainType, id, alertID, generated []byte
		payload, data, companyID, connectionID                 []byte
	)
	var lower [longestName]byte
	_, err := object(body, func(name, value []byte) {
		switch string(fold(lower[:0], name)) {
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
		case "payload":
			keep(&payload, value, '{')
		case "data":
			keep(&data, value, '{')
		case "companyid":
			keep(&companyID, value, '"')
		case "dataconnectionid":
			keep(&connectionID, value, '"')
		}
	})
	if err != nil {
		return Head{}, err
	}
	h := Head{
		Type:      typeOf(eventType, ruleType, plainType),
		EventID:   first(id, alertID),
		Generated: parseTime(text(generated)),
	}
	h.readPayload(payload)
	if h.Company == "" {
		h.Company = text(companyID)
	}
	h.connect(connectionID)
	h.readData(data)
	if len(h.Connections) == 1 {
		h.Connection = h.Connections[0]
	}
	if h.Type == "" {
		return h, ErrNoType
	}
	return h, nil
}

// readPayload reads the ids of an enveloped event. The payload's own id means three
// things: the company in company.*, the push operation in *.write.*, else something that
// is not in a Head.
func (h *Head) readPayload(payload []byte) {
	var id, companyID, company, connectionID, connection, dataTypes []byte
	for name, value := range members(payload) {
		switch string(name) {
		case "id":
			keep(&id, value, '"')
		case "companyid":
			keep(&companyID, value, '"')
		case "referencecompany":
			keep(&company, value, '{')
		case "connectionid":
			keep(&connectionID, value, '"')
		case "connection":
			keep(&connection, value, '{')
		case "datatypes":
			keep(&dataTypes, value, '[')
		}
	}
	var of []byte
	if strings.HasPrefix(h.Type, "company.") {
		of = id
	}
	h.Company = first(member(company, "id"), of, companyID)
	h.connect(member(connection, "id"))
	h.connect(connectionID)
	h.connectAll(dataTypes)
	h.Platform = text(member(connection, "integrationkey"))
	if strings.Contains(h.Type, ".write.") {
		h.PushOperation = text(id)
	}
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
