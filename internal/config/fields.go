package config

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// field is one setting of a struct.
type field struct {
	name, group, help string
	ptr               any // *string, *bool, *int, *time.Duration, *ByteSize, *[]string or *[]Upstream
}

// fieldsOf lists the settings below a pointer to a struct, embedded ones
// first. It panics on a field that is not tagged: that is a mistake in this
// package.
func fieldsOf(cfg any) []field {
	var list []field
	v := reflect.ValueOf(cfg).Elem()
	for i := range v.NumField() {
		f, t := v.Field(i), v.Type().Field(i)
		if t.Anonymous {
			list = append(list, fieldsOf(f.Addr().Interface())...)
			continue
		}
		fd := field{name: t.Tag.Get("name"), group: t.Tag.Get("group"), help: t.Tag.Get("help"), ptr: f.Addr().Interface()}
		if fd.name == "" || fd.group == "" || fd.help == "" {
			panic("config: field " + t.Name + " lacks a tag")
		}
		list = append(list, fd)
	}
	return list
}

// kind names the type for people.
func (f field) kind() string {
	switch f.ptr.(type) {
	case *string:
		return "string"
	case *bool:
		return "bool"
	case *int:
		return "number"
	case *time.Duration:
		return "duration"
	case *ByteSize:
		return "size"
	case *[]string:
		return "list"
	case *[]Upstream:
		return "NAME=URL list"
	}
	panic(fmt.Sprintf("config: type %T of %s", f.ptr, f.name))
}

func (f field) repeatable() bool {
	switch f.ptr.(type) {
	case *[]string, *[]Upstream:
		return true
	}
	return false
}

// set parses text into the field. Lists are replaced by all the values, of
// others the last one counts.
func (f field) set(values []string) (err error) {
	last := ""
	if len(values) > 0 {
		last = values[len(values)-1]
	}
	switch p := f.ptr.(type) {
	case *string:
		*p = last
	case *bool:
		if *p, err = strconv.ParseBool(last); err != nil {
			return fmt.Errorf("%q is neither true nor false", last)
		}
	case *int:
		if *p, err = strconv.Atoi(last); err != nil {
			return fmt.Errorf("%q is not a whole number", last)
		}
	case *time.Duration:
		if *p, err = time.ParseDuration(last); err != nil {
			return fmt.Errorf("%q is not a duration like 90s, 5m or 24h", last)
		}
	case *ByteSize:
		*p, err = ParseByteSize(last)
		return err
	case *[]string:
		*p = append([]string(nil), values...)
	case *[]Upstream:
		list := make([]Upstream, 0, len(values))
		for _, v := range values {
			u, err := parseUpstream(v)
			if err != nil {
				return err
			}
			list = append(list, u)
		}
		*p = list
	default:
		panic(fmt.Sprintf("config: type %T of %s", f.ptr, f.name))
	}
	return nil
}

// values is the reverse of set. Passwords are redacted.
func (f field) values() []string {
	switch p := f.ptr.(type) {
	case *string:
		return []string{redact(*p)}
	case *bool:
		return []string{strconv.FormatBool(*p)}
	case *int:
		return []string{strconv.Itoa(*p)}
	case *time.Duration:
		return []string{formatDuration(*p)}
	case *ByteSize:
		return []string{p.String()}
	case *[]string:
		list := make([]string, len(*p))
		for i, s := range *p {
			list[i] = redact(s)
		}
		return list
	case *[]Upstream:
		list := make([]string, len(*p))
		for i, u := range *p {
			list[i] = u.Name + "=" + u.text()
		}
		return list
	}
	panic(fmt.Sprintf("config: type %T of %s", f.ptr, f.name))
}

// formatDuration is Duration.String without "0s" at the end: "24h", "1m".
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// redact hides the user and password of a URL anywhere in s.
func redact(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return s
	}
	host, path, _ := strings.Cut(rest, "/")
	at := strings.LastIndexByte(host, '@')
	if at < 0 {
		// A '/' in a password that was not escaped hides the '@' behind it.
		if u, err := url.Parse(s); err == nil && u.User == nil {
			return s
		}
		if at = strings.LastIndexByte(rest, '@'); at < 0 {
			return s
		}
		return scheme + "://REDACTED" + rest[at:]
	}
	s = scheme + "://REDACTED" + host[at:]
	if path != "" {
		s += "/" + path
	}
	return s
}

func itoa(n int) string { return strconv.Itoa(n) }
