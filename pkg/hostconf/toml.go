package hostconf

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Comments around the lines that are ours.
const (
	markBegin = "# begin of what peerd setup wrote; `peerd setup undo` takes it out"
	markEnd   = "# end of what peerd setup wrote"
)

// tomlTable is the header of a table.
type tomlTable struct {
	key   []string
	array bool // [[key]]
	lead  int  // offset of the line of its header, or of comments right above
	line  int  // offset of the line of its header
	body  int  // offset of the line after its header
}

// tomlValue is a key with a value.
type tomlValue struct {
	table  int      // index of the table it is in, -1 for none
	key    []string // below that table
	start  int      // offset of the value
	end    int      // offset behind the value, where known: of strings
	text   string   // of strings
	kind   unstable.Kind
	values []string // of arrays of strings
}

// tomlText is where things are in a text of TOML, which go-toml does not tell
// when it decodes.
type tomlText struct {
	src    []byte
	tables []tomlTable
	values []tomlValue
}

// decodeTOML reads a file into v, a pointer. The error says where it is wrong.
func decodeTOML(src []byte, v any) error {
	err := toml.Unmarshal(src, v)
	if de := (*toml.DecodeError)(nil); errors.As(err, &de) {
		line, col := de.Position()
		return fmt.Errorf("line %d, column %d: %w", line, col, err)
	}
	return err
}

// scanTOML finds tables and values. src has to be TOML that decodes.
func scanTOML(src []byte) (*tomlText, error) {
	var all map[string]any
	if err := decodeTOML(src, &all); err != nil {
		return nil, err
	}
	t := &tomlText{src: src}
	p := unstable.Parser{KeepComments: true}
	p.Reset(src)
	comment, next := -1, -1 // offsets of the first line of comments, and of the line after them
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Comment:
			line := t.lineOf(int(e.Raw.Offset))
			if line != next {
				comment = line
			}
			next = t.lineAfter(line)
		case unstable.Table, unstable.ArrayTable:
			key, at, end := keyOf(e)
			tt := tomlTable{key: key, array: e.Kind == unstable.ArrayTable, line: t.lineOf(at), body: t.lineAfter(end)}
			tt.lead = tt.line
			if comment >= 0 && next == tt.line {
				tt.lead = comment
			}
			t.tables = append(t.tables, tt)
		case unstable.KeyValue:
			t.values = append(t.values, t.valueOf(e))
		}
	}
	return t, p.Error()
}

// keyOf is a dotted key, and the offsets where it begins and ends.
func keyOf(e *unstable.Node) (key []string, start, end int) {
	start = -1
	for it := e.Key(); it.Next(); {
		n := it.Node()
		if start < 0 {
			start = int(n.Raw.Offset)
		}
		end = int(n.Raw.Offset + n.Raw.Length)
		key = append(key, string(n.Data))
	}
	return key, start, end
}

func (t *tomlText) valueOf(e *unstable.Node) tomlValue {
	key, _, end := keyOf(e)
	v := tomlValue{table: len(t.tables) - 1, key: key, kind: e.Value().Kind}
	for v.start = end; v.start < len(t.src) && strings.IndexByte(" \t=", t.src[v.start]) >= 0; v.start++ {
	}
	switch v.kind {
	case unstable.String:
		r := e.Value().Raw
		v.text, v.end = string(e.Value().Data), int(r.Offset+r.Length)
	case unstable.Array:
		for it := e.Value().Children(); it.Next(); {
			if it.Node().Kind == unstable.String {
				v.values = append(v.values, string(it.Node().Data))
			}
		}
	}
	return v
}

// lineOf is where the line of an offset begins.
func (t *tomlText) lineOf(at int) int { return bytes.LastIndexByte(t.src[:at], '\n') + 1 }

// lineAfter is where the line after that of an offset begins, or the end.
func (t *tomlText) lineAfter(at int) int {
	if i := bytes.IndexByte(t.src[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(t.src)
}

// table is the index of the last table with that key; -1 if there is none.
func (t *tomlText) table(key ...string) int {
	for i := len(t.tables) - 1; i >= 0; i-- {
		if slices.Equal(t.tables[i].key, key) {
			return i
		}
	}
	return -1
}

// value is the value at a path, as `a.b = 1`, or as `b = 1` below `[a]`.
func (t *tomlText) value(path ...string) *tomlValue {
	for i := range t.values {
		v := &t.values[i]
		full := v.key
		if v.table >= 0 {
			full = append(slices.Clone(t.tables[v.table].key), v.key...)
		}
		if slices.Equal(full, path) {
			return v
		}
	}
	return nil
}

// insertLines puts whole lines at an offset where a line begins, or at the end.
// mark is as in edit.
func (t *tomlText) insertLines(at int, text, mark string) edit {
	if bytes.Contains(t.src, []byte("\r\n")) {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	if at > 0 && t.src[at-1] != '\n' {
		text = "\n" + text
	}
	return edit{Offset: at, New: text, Mark: mark}
}

// block is lines between our marks.
func block(lines ...string) string {
	return markBegin + "\n" + strings.Join(lines, "\n") + "\n" + markEnd + "\n"
}

// first puts an element in front of an array's others.
func (v *tomlValue) first(element, mark string, others bool) edit {
	if others {
		element += ", "
	}
	return edit{Offset: v.start + 1, New: element, Mark: mark}
}
