package config

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// Source is where a setting's value came from.
type Source struct {
	Level string // "default", "file", "env" or "flag"
	Where string // "", "seeder.yaml:12", "SEEDER_LISTEN", "--listen"
}

// Loader fills one daemon's struct.
type Loader struct {
	Daemon string // "seeder" or "peerd"

	fields  []field
	flags   map[string]*flagValue
	file    string // value of --config
	sources map[string]Source
	common  *Common
	check   func() []Problem // what only this daemon has to check
	warn    func() []Problem
}

// NewSeeder returns a struct with defaults and the loader that fills it.
func NewSeeder() (*Seeder, *Loader) {
	c := DefaultSeeder()
	l := newLoader("seeder", &c, &c.Common)
	l.check, l.warn = c.problems, c.Warnings
	return &c, l
}

// NewPeerd returns a struct with defaults and the loader that fills it.
func NewPeerd() (*Peerd, *Loader) {
	c := DefaultPeerd()
	l := newLoader("peerd", &c, &c.Common)
	l.check, l.warn = c.problems, c.Warnings
	return &c, l
}

func newLoader(daemon string, cfg any, common *Common) *Loader {
	l := &Loader{Daemon: daemon, fields: fieldsOf(cfg), flags: map[string]*flagValue{}, sources: map[string]Source{}, common: common}
	for _, f := range l.fields {
		l.sources[f.name] = Source{Level: "default"}
	}
	return l
}

// Bind adds the flags, --config among them.
func (l *Loader) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&l.file, "config", "", "YAML file with these settings ($"+l.envName("config")+")")
	for _, f := range l.fields {
		v := &flagValue{field: f}
		l.flags[f.name] = v
		flag := fs.VarPF(v, f.name, "", f.help+" ($"+l.envName(f.name)+")")
		if _, ok := f.ptr.(*bool); ok {
			flag.NoOptDefVal = "true"
		}
		flag.DefValue = strings.Join(f.values(), ",")
		if u, ok := f.ptr.(*[]Upstream); ok && len(*u) > 0 {
			flag.DefValue = "well-known public registries"
		}
	}
}

// Load fills the struct from flags (once they are parsed), environment and
// file. env is os.LookupEnv. An error is an *Error with every problem found.
// Whether the values make sense is Check's to say.
func (l *Loader) Load(env func(string) (string, bool)) error {
	file := l.file
	if file == "" {
		file, _ = env(l.envName("config"))
	}
	var problems []Problem
	if file != "" {
		content, err := readConfigFile(file)
		if err != nil {
			return asErr([]Problem{{Where: file, What: err.Error(), Fix: "give --config a YAML file that this user can read"}})
		}
		problems = append(problems, l.loadYAML(file, content)...)
	}
	for _, f := range l.fields {
		name := l.envName(f.name)
		// An empty variable is what a template leaves for a value not given.
		if s, ok := env(name); ok && s != "" {
			problems = l.assign(problems, f, envValues(f, s), Source{"env", name})
		}
	}
	for _, f := range l.fields {
		if v := l.flags[f.name]; v != nil && v.given != nil {
			problems = l.assign(problems, f, v.given, Source{"flag", "--" + f.name})
		}
	}
	return asErr(problems)
}

func (l *Loader) assign(problems []Problem, f field, values []string, s Source) []Problem {
	if err := f.set(values); err != nil {
		return append(problems, Problem{Where: s.Where, What: err.Error()})
	}
	l.sources[f.name] = s
	return problems
}

// where names the place that a setting's value came from.
func (l *Loader) where(name string) string {
	if s := l.sources[name]; s.Where != "" {
		return s.Where
	}
	return "--" + name
}

func (l *Loader) envName(name string) string {
	return strings.ToUpper(l.Daemon + "_" + strings.ReplaceAll(name, "-", "_"))
}

// envValues splits a list at commas.
func envValues(f field, s string) []string {
	if !f.repeatable() {
		return []string{s}
	}
	var list []string
	for _, v := range strings.Split(s, ",") {
		if v = strings.TrimSpace(v); v != "" {
			list = append(list, v)
		}
	}
	return list
}

// maxConfigFile bounds what is read of a configuration file.
const maxConfigFile = 1 << 20

func readConfigFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, bare(err)
	case st.IsDir():
		return nil, fmt.Errorf("is a directory")
	case st.Size() > maxConfigFile:
		return nil, fmt.Errorf("is %d bytes long, more than any configuration", st.Size())
	}
	content, err := os.ReadFile(path)
	return content, bare(err)
}

// flagValue keeps what was given until Load knows the other levels.
type flagValue struct {
	field field
	given []string
}

func (v *flagValue) String() string { return "" }

func (v *flagValue) Type() string { return v.field.kind() }

func (v *flagValue) Set(s string) error {
	v.given = append(v.given, s)
	return nil
}
