package hostconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

const (
	dockerConfig = "/etc/docker/daemon.json"
	dockerHub    = "docker.io"
	mirrorsKey   = "registry-mirrors"
)

// Where dockerd's flags are kept on a host, directories of systemd drop-ins
// among them.
var dockerFlagFiles = []string{"/etc/default/docker", "/etc/sysconfig/docker", "/etc/systemd/system/docker.service",
	"/lib/systemd/system/docker.service", "/usr/lib/systemd/system/docker.service"}

const dockerDropIns = "/etc/systemd/system/docker.service.d"

// docker puts the mirror in front of daemon.json's registry-mirrors, which are
// for docker.io alone.
func (p *planner) docker() error {
	path := p.Files[Docker]
	if path == "" {
		path = dockerConfig
	}
	if !slices.Contains(p.Registries, dockerHub) {
		p.note(Note{Code: codeDockerHubOnly, Runtime: Docker, Path: path, Text: "docker has mirrors of docker.io only, which is not among the registries: nothing to write"})
		return nil
	}
	flagged, err := p.h.dockerFlag()
	if err != nil {
		return err
	}
	if flagged != "" {
		p.note(Note{Code: codeDockerFlag, Runtime: Docker, Path: flagged, Text: "gives dockerd --registry-mirror, and dockerd does not start when daemon.json has mirrors, too",
			Remedy: fmt.Sprintf("put --registry-mirror=%s in front there, or move the flags to daemon.json and run setup again", p.Mirror), Problem: true})
		return nil
	}
	if p.h.root.dangling(path) {
		p.note(Note{Code: codeNotEdited, Runtime: Docker, Path: path, Text: "is a symlink to nowhere", Remedy: "put the file there, or remove the link", Problem: true})
		return nil
	}
	d, err := p.draft(path)
	if err != nil {
		return err
	}
	mirrors, err := parseDaemonJSON(d.base)
	if err != nil {
		p.note(Note{Code: codeNotEdited, Runtime: Docker, Path: path, Text: err.Error(), Remedy: "mend it and try again", Problem: true})
		return nil
	}
	if i := slices.IndexFunc(mirrors, func(m string) bool { return sameMirror(m, p.Mirror) }); i >= 0 {
		n := Note{Code: codeAlready, Runtime: Docker, Path: path, Text: "names the mirror already, and stays as it is"}
		if i > 0 {
			n.Code, n.Text, n.Problem, n.Remedy = codeNotFirst, "names the mirror, but after "+mirrors[0], true, "move it to the front"
		}
		p.note(n)
		return nil
	}
	if err := addJSONMirror(d, p.Mirror); err != nil {
		return err
	}
	after, err := parseDaemonJSON(d.result())
	if err != nil || !slices.Equal(after, append([]string{p.Mirror}, mirrors...)) {
		d.edits = nil
		p.note(Note{Code: codeNotEdited, Runtime: Docker, Path: path, Text: "is written in a way that cannot be added to",
			Remedy: fmt.Sprintf("put %q in front of its registry-mirrors", p.Mirror), Problem: true})
		return nil
	}
	return p.noteChange(Note{Code: codeReload, Runtime: Docker, Path: path, Text: "dockerd reads it at start and at SIGHUP", Remedy: "systemctl reload docker (no container is touched)"}, d)
}

func sameMirror(a, b string) bool { return strings.TrimRight(a, "/") == strings.TrimRight(b, "/") }

// dockerFlag is the file that gives dockerd --registry-mirror; "" for none.
func (h *Host) dockerFlag() (string, error) {
	files := slices.Clone(dockerFlagFiles)
	names, err := h.root.list(dockerDropIns)
	if err != nil {
		return "", err
	}
	for _, n := range names {
		files = append(files, filepath.Join(dockerDropIns, n))
	}
	for _, f := range files {
		content, _, err := h.root.read(f)
		if err != nil {
			return "", err
		}
		for line := range bytes.Lines(content) {
			if line = bytes.TrimSpace(line); !bytes.HasPrefix(line, []byte("#")) && bytes.Contains(line, []byte("--registry-mirror")) {
				return f, nil
			}
		}
	}
	return "", nil
}

// parseDaemonJSON reads the mirrors of a daemon.json. One that is empty is fine,
// as it is for dockerd.
func parseDaemonJSON(src []byte) ([]string, error) {
	if len(bytes.TrimSpace(src)) == 0 {
		return nil, nil
	}
	var file map[string]json.RawMessage
	if err := json.Unmarshal(src, &file); err != nil {
		return nil, fmt.Errorf("is no JSON object, so dockerd does not start with it: %w", err)
	}
	var mirrors []string
	if raw, ok := file[mirrorsKey]; ok {
		if err := json.Unmarshal(raw, &mirrors); err != nil {
			return nil, fmt.Errorf("its registry-mirrors are no list of strings: %w", err)
		}
	}
	return mirrors, nil
}

// jsonMember is where a member of the outermost object is in the text.
type jsonMember struct {
	before   int // where the one before it, or the opening brace, ends
	value    int // start of the value
	end      int // of the value
	elements []jsonElement
}

type jsonElement struct {
	text       string
	start, end int
}

// jsonObject finds the members of an object, whose text has to decode.
func jsonObject(src []byte) (open int, members map[string]jsonMember, err error) {
	dec := json.NewDecoder(bytes.NewReader(src))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return 0, nil, errors.New("is no JSON object")
	}
	open = int(dec.InputOffset())
	members = map[string]jsonMember{}
	for before := open; dec.More(); {
		m := jsonMember{before: before}
		t, err := dec.Token()
		if err != nil {
			return 0, nil, err
		}
		key, _ := t.(string)
		m.value = int(dec.InputOffset())
		for m.value < len(src) && strings.IndexByte(" \t\r\n:", src[m.value]) >= 0 {
			m.value++
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return 0, nil, err
		}
		m.end = int(dec.InputOffset())
		before = m.end
		if _, twice := members[key]; twice && key == mirrorsKey {
			return 0, nil, errors.New("has registry-mirrors twice")
		}
		if key == mirrorsKey {
			if m.elements, err = jsonElements(raw, m.value); err != nil {
				return 0, nil, err
			}
		}
		members[key] = m
	}
	return open, members, nil
}

// jsonElements finds the strings of an array that begins at an offset.
func jsonElements(raw []byte, at int) ([]jsonElement, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return nil, nil // null
	}
	var list []jsonElement
	for dec.More() {
		from := int(dec.InputOffset())
		t, err := dec.Token()
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		s, _ := t.(string)
		list = append(list, jsonElement{s, at + from + bytes.IndexByte(raw[from:], '"'), at + int(dec.InputOffset())})
	}
	return list, nil
}

// addJSONMirror puts a mirror in front of the others.
func addJSONMirror(d *draft, mirror string) error {
	src, element := d.base, fmt.Sprintf("%q", mirror)
	if len(bytes.TrimSpace(src)) == 0 {
		d.edits = []edit{{Offset: 0, Old: string(src), New: "{\n  \"registry-mirrors\": [" + element + "]\n}\n", Mark: mirror}}
		return nil
	}
	open, members, err := jsonObject(src)
	if err != nil {
		return err
	}
	if m, ok := members[mirrorsKey]; ok && src[m.value] == '[' {
		if len(m.elements) > 0 {
			element += ", "
		}
		d.add(edit{Offset: m.value + 1, New: element, Mark: mirror})
		return nil
	} else if ok {
		d.add(edit{Offset: m.value, Old: string(src[m.value:m.end]), New: "[" + element + "]", Mark: mirror})
		return nil
	}
	member := `"registry-mirrors": [` + element + "]"
	rest := src[open:]
	space := rest[:len(rest)-len(bytes.TrimLeft(rest, " \t\r\n"))] // before the first key, as those who wrote it indent
	if len(members) > 0 {
		member = string(space) + member + ","
	} else if member = "\n  " + member; len(space) == 0 {
		member += "\n"
	}
	d.add(edit{Offset: open, New: member, Mark: mirror})
	return nil
}

// removeJSONMirror takes a mirror out of a file that somebody has formatted
// anew.
func removeJSONMirror(src []byte, mirror string) ([]byte, error) {
	_, members, err := jsonObject(src)
	m, ok := members[mirrorsKey]
	if err != nil || !ok {
		return nil, errOurPart
	}
	i := slices.IndexFunc(m.elements, func(e jsonElement) bool { return sameMirror(e.text, mirror) })
	if i < 0 {
		return nil, errOurPart
	}
	from, to := m.elements[i].start, m.elements[i].end
	switch {
	case i+1 < len(m.elements):
		to = m.elements[i+1].start
	case i > 0:
		from = m.elements[i-1].end
	default: // the last one goes with its list
		from, to = m.before, m.end
		if src[from-1] == '{' {
			if rest := bytes.TrimLeft(src[to:], " \t\r\n"); len(rest) > 0 && rest[0] == ',' {
				to = len(src) - len(rest) + 1
			}
		}
	}
	out := append(slices.Clone(src[:from]), src[to:]...)
	if _, err := parseDaemonJSON(out); err != nil {
		return nil, errOurPart
	}
	return out, nil
}
