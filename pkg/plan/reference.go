package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A reference names what another step has made: ${steps.NAME.record.id} or ${steps.NAME.attachment.id}.
type reference struct {
	step string
	what string // record or attachment
	path string // where it is, such as body.lineItems[0].accountRef.id
}

// parseReference reads what is between ${ and }.
func parseReference(text string) (reference, error) {
	parts := strings.Split(text, ".")
	if len(parts) != 4 || parts[0] != "steps" || parts[3] != "id" || parts[2] != "record" && parts[2] != "attachment" {
		return reference{}, fmt.Errorf("${%.80s} is no reference: use ${steps.NAME.record.id} or ${steps.NAME.attachment.id}, and $${ for ${", text)
	}
	return reference{step: parts[1], what: parts[2]}, nil
}

// expand replaces the references in a text by what value returns for them, and $${ by ${.
func expand(text string, value func(reference) (string, error)) (string, error) {
	var b strings.Builder
	for {
		i := strings.IndexByte(text, '$')
		if i < 0 {
			b.WriteString(text)
			return b.String(), nil
		}
		b.WriteString(text[:i])
		text = text[i:]
		switch {
		case strings.HasPrefix(text, "$${"):
			b.WriteString("${")
			text = text[3:]
		case strings.HasPrefix(text, "${"):
			inside, rest, ok := strings.Cut(text[2:], "}")
			if !ok {
				return "", errors.New("a reference has no } at its end: use $${ for ${")
			}
			r, err := parseReference(inside)
			if err != nil {
				return "", err
			}
			v, err := value(r)
			if err != nil {
				return "", err
			}
			b.WriteString(v)
			text = rest
		default:
			b.WriteByte('$')
			text = text[1:]
		}
	}
}

// eachText calls each with every text of a step that can have references, and its path.
func (s Step) eachText(each func(path, text string)) {
	each("record", s.Record)
	if len(s.Body) == 0 {
		return
	}
	var body any
	if json.Unmarshal(s.Body, &body) == nil { // else it is refused for that
		walk("body", body, each)
	}
}

// walk calls each with every string value of decoded JSON, and its path. Names of members have no references.
func walk(path string, value any, each func(path, text string)) {
	switch value := value.(type) {
	case string:
		each(path, value)
	case []any:
		for i, v := range value {
			walk(path+"["+strconv.Itoa(i)+"]", v, each)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(value)) {
			walk(path+"."+name, value[name], each)
		}
	}
}

// references returns the references of a step that can be read.
func (s Step) references() (all []reference) {
	s.eachText(func(path, text string) {
		_, _ = expand(text, func(r reference) (string, error) { // what cannot be read is among referenceFaults
			r.path = path
			all = append(all, r)
			return "", nil
		})
	})
	return all
}

// referenceFaults returns what is wrong with the references of a step of a plan.
func (s Step) referenceFaults(p Plan) (all []error) {
	s.eachText(func(path, text string) {
		_, err := expand(text, func(r reference) (string, error) {
			i := p.index(r.step)
			if i < 0 || r.step == s.Name {
				return "", errors.New(noStep(r.step, s.Name))
			}
			return "", p.Steps[i].canGive(r.what)
		})
		if err != nil {
			all = append(all, fmt.Errorf("%.200s: %w", path, err))
		}
	})
	return all
}

// canGive refuses a reference to what a step does not have when it is done.
func (s Step) canGive(what string) error {
	switch {
	case what == "record" && (s.Kind == Create || s.Kind == Update), what == "attachment" && s.Kind == Attachment:
		return nil
	}
	return fmt.Errorf("step %q, of kind %q, has no %s.id", s.Name, s.Kind, what)
}

// resolve returns the step with its references replaced. The bytes of the body are the same each time.
func (s Step) resolve(value func(reference) (string, error)) (Step, error) {
	var err error
	if s.Record, err = expand(s.Record, value); err != nil {
		return Step{}, err
	}
	if len(s.Body) > 0 {
		s.Body, err = expandJSON(s.Body, value)
	}
	return s, err
}

// expandJSON replaces the references in the string values of valid JSON, and leaves every other byte as it is.
func expandJSON(text []byte, value func(reference) (string, error)) ([]byte, error) {
	var out bytes.Buffer
	for i := 0; i < len(text); {
		if text[i] != '"' {
			out.WriteByte(text[i])
			i++
			continue
		}
		end := i + 1
		for text[end] != '"' {
			if text[end] == '\\' {
				end++
			}
			end++
		}
		end++
		literal := text[i:end]
		i = end
		name := bytes.HasPrefix(bytes.TrimLeft(text[end:], " \t\r\n"), []byte(":"))
		// A $ or a { can also be written as an escape.
		if name || !bytes.ContainsAny(literal, `$\`) {
			out.Write(literal)
			continue
		}
		var old string
		if err := json.Unmarshal(literal, &old); err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
		changed, err := expand(old, value)
		if err != nil {
			return nil, err
		}
		if changed == old {
			out.Write(literal)
			continue
		}
		quoted, err := json.Marshal(changed)
		if err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
		out.Write(quoted)
	}
	return out.Bytes(), nil
}
