package skew

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

const (
	page     = "../../docs/upgrade.md"
	wireFile = "testdata/wire.txt"
)

// newest is the number of the last row of a table of docs/upgrade.md.
func newest(t *testing.T, table string) int {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, row := range regexp.MustCompile(`(?m)^\| `+table+` (\d+) \|`).FindAllStringSubmatch(string(text), -1) {
		k, _ := strconv.Atoi(row[1])
		if k != n+1 {
			t.Fatalf("%s: row %q comes after %s %d", page, row[0], table, n)
		}
		n = k
	}
	if n == 0 {
		t.Fatalf("%s has no row of %s", page, table)
	}
	return n
}

// line is one of wire.txt: "ROW MESSAGE HEX JSON".
type line struct {
	row  int
	name protoreflect.Name
	wire []byte
	json string
}

func readWire(t *testing.T) []line {
	t.Helper()
	text, err := os.ReadFile(wireFile)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var all []line
	for i, s := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		f := strings.SplitN(s, " ", 4)
		if len(f) != 4 {
			if s != "" {
				t.Fatalf("%s:%d: %q", wireFile, i+1, s)
			}
			continue
		}
		row, err := strconv.Atoi(f[0])
		if err != nil {
			t.Fatalf("%s:%d: %v", wireFile, i+1, err)
		}
		wire, err := hex.DecodeString(f[2])
		if err != nil {
			t.Fatalf("%s:%d: %v", wireFile, i+1, err)
		}
		all = append(all, line{row, protoreflect.Name(f[1]), wire, f[3]})
	}
	return all
}

// TestWire decodes what was written when each message got its present fields, and
// compares. UPDATE_WIRE=1 adds lines for messages that have changed, under a new
// row of docs/upgrade.md.
func TestWire(t *testing.T) {
	lines := readWire(t)
	last := newest(t, "wire")
	latest := map[protoreflect.Name]line{}
	for _, l := range lines {
		if l.row > last {
			t.Errorf("%s: %s is of wire %d, which has no row in %s", wireFile, l.name, l.row, page)
		}
		latest[l.name] = l
		kind, err := protoregistry.GlobalTypes.FindMessageByName(pb.File_swarm_proto.FullName().Append(l.name))
		if err != nil {
			t.Errorf("wire %d has the message %s: %v. A message is never removed or renamed: older peers send it", l.row, l.name, err)
			continue
		}
		m := kind.New().Interface()
		if err := proto.Unmarshal(l.wire, m); err != nil {
			t.Errorf("wire %d, %s: %v", l.row, l.name, err)
			continue
		}
		if got := text(t, m); got != l.json {
			t.Errorf("wire %d: %s of an older peer is\n%s\nwas\n%s\nA field is never given another number, type or name", l.row, l.name, got, l.json)
		}
	}
	var added bytes.Buffer
	messages := pb.File_swarm_proto.Messages()
	for i := range messages.Len() {
		d := messages.Get(i)
		m := full(d)
		if d.Name() == "Frame" { // one of its bodies at a time; they are messages of their own
			continue
		}
		wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if have, ok := latest[d.Name()]; ok && bytes.Equal(have.wire, wire) {
			continue
		} else if ok && have.row == last || os.Getenv("UPDATE_WIRE") == "" {
			t.Errorf("%s is not as in %s. What peers say has changed: add a row after wire %d to %s, say what older peers do with it, and run UPDATE_WIRE=1 go test ./test/skew -run TestWire",
				d.Name(), wireFile, last, page)
			continue
		}
		fmt.Fprintf(&added, "%d %s %x %s\n", last, d.Name(), wire, text(t, m))
	}
	bodies := pb.File_swarm_proto.Messages().ByName("Frame").Fields()
	for i, want := range strings.Fields("hello ping pong join state have leave peers runs revoke") {
		if f := bodies.ByNumber(protoreflect.FieldNumber(i + 1)); f == nil || string(f.Name()) != want {
			t.Errorf("body %d of a Frame is not %s", i+1, want)
		}
	}
	if bodies.Len() != 10 {
		t.Errorf("a Frame has %d kinds of body: add a row to %s, and the new kind here", bodies.Len(), page)
	}
	if added.Len() > 0 {
		f, err := os.OpenFile(wireFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write(added.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
}

// text is one form of a message for good: protojson puts spaces at random.
func text(t *testing.T, m proto.Message) string {
	t.Helper()
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), " ", "")
}

// full is a message with something in each field, which tells its number.
func full(d protoreflect.MessageDescriptor) proto.Message {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err) // pb has it
	}
	m := kind.New()
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		v := value(f)
		if f.IsList() {
			m.Mutable(f).List().Append(v)
		} else {
			m.Set(f, v)
		}
	}
	return m.Interface()
}

func value(f protoreflect.FieldDescriptor) protoreflect.Value {
	n := 1000 + int64(f.Number())
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(n)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(string(f.Name()))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(f.Name()))
	case protoreflect.MessageKind:
		return protoreflect.ValueOfMessage(full(f.Message()).ProtoReflect())
	}
	panic("a kind of field that no message had: " + f.Kind().String())
}

// TestWireUnknown: what a later version adds is passed over, in every message.
func TestWireUnknown(t *testing.T) {
	later := append([]byte{0xf8, 0x3f, 0x01}, 0xfa, 0x3f, 0x03, 'n', 'e', 'w') // fields 1023, a number and bytes
	messages := pb.File_swarm_proto.Messages()
	for i := range messages.Len() {
		d := messages.Get(i)
		if d.Name() == "Frame" {
			continue // pkg/p2p: TestControl, "unknown frames are skipped"
		}
		want := full(d)
		wire, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got := want.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(append(wire, later...), got); err != nil {
			t.Errorf("%s: %v", d.Name(), err)
			continue
		}
		got.ProtoReflect().SetUnknown(nil)
		if !proto.Equal(got, want) {
			t.Errorf("%s: %v, want %v", d.Name(), got, want)
		}
	}
}
