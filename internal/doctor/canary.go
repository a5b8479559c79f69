package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/samara-p2p/samara/internal/canary"
	"github.com/samara-p2p/samara/pkg/hostconf"
	"github.com/samara-p2p/samara/pkg/registry"
)

// maxRegistries bounds the canaries of one runtime.
const maxRegistries = 8

// puller is a runtime that can be told to pull.
type puller interface {
	// pull pulls an image, named by registry, repository and digest. The error is
	// a notHere where this runtime cannot be told.
	pull(ctx context.Context, image string) error
	remove(ctx context.Context, image string) error
	close()
}

// notHere says why a runtime cannot be tried.
type notHere string

// Error says why.
func (e notHere) Error() string { return string(e) }

// where runtimes listen, by themselves.
var sockets = map[string][]string{
	"containerd": {"/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock"},
	"docker":     {"/var/run/docker.sock"},
	"crio":       {"/var/run/crio/crio.sock"},
}

// socket is where a runtime listens; "" where none does.
func (d *doctor) socket(name string) string {
	list := sockets[name]
	if s := d.Sockets[name]; s != "" {
		list = []string{s}
	} else if s, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://"); ok && name == "docker" {
		list = []string{s}
	}
	for _, s := range list {
		p := filepath.Join(d.Root, s)
		if st, err := os.Stat(p); err == nil && st.Mode()&os.ModeSocket != 0 {
			return p
		}
	}
	return ""
}

// program is the path of a program of this host; "" where only its files are seen.
func (d *doctor) program(name string) string {
	if d.Root != "/" && d.Root != "" {
		return ""
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

// puller finds the way to have a runtime pull; the error is a notHere.
func (d *doctor) puller(r hostconf.Runtime) (puller, error) {
	switch r {
	case hostconf.Containerd:
		if s := d.socket("containerd"); s != "" {
			return newCRI(s), nil
		}
		return nil, notHere("no socket of containerd is here: it does not run, or name it with --socket containerd=PATH")
	case hostconf.Docker:
		if s := d.socket("docker"); s != "" {
			return newDockerd(s), nil
		}
		return nil, notHere("no socket of dockerd is here: it does not run, or name it with --socket docker=PATH")
	case hostconf.Podman:
		if s := d.socket("crio"); s != "" {
			return newCRI(s), nil
		}
		if p := d.program("podman"); p != "" {
			return &podman{p}, nil
		}
		if p := d.program("skopeo"); p != "" {
			return &skopeo{p}, nil
		}
		return nil, notHere("neither CRI-O's socket nor podman or skopeo is here")
	}
	return nil, notHere("it pulls only when it builds")
}

// configurationAndCanaries reads the runtimes' files and has each runtime pull, at
// the same time; what a canary proves, the files need not.
func (d *doctor) configurationAndCanaries(ctx context.Context) {
	if len(d.Settings.Runtimes) == 0 {
		d.add(Check{Check: checkConfig, Result: Skipped, Text: "no container runtime is seen here: run this on the host, or with --root where the host's files are"},
			Check{Check: checkCanary, Result: Skipped, Text: "no container runtime is seen here"})
		return
	}
	var wg sync.WaitGroup
	var config, canaries, history []Check
	wg.Go(func() { config = d.configuration(ctx) })
	wg.Go(func() {
		canaries = d.canaries(ctx)
		history = d.history(ctx, canaries)
	})
	wg.Wait()
	for i, c := range config {
		if c.Result == Fault && arrived(canaries, c.Subject) {
			config[i].Result = Warning
			config[i].Text += "; yet a canary came through the mirror"
		}
	}
	d.add(slices.Concat(config, canaries, history)...)
}

// arrived tells whether all canaries of a runtime, and there are some, came through
// the mirror.
func arrived(canaries []Check, runtime string) bool {
	any := false
	for _, c := range canaries {
		name, _, _ := strings.Cut(c.Subject, " ")
		if name != runtime {
			continue
		}
		if c.Result != OK {
			return false
		}
		any = true
	}
	return any
}

// configuration reads the files as the runtimes do.
func (d *doctor) configuration(ctx context.Context) []Check {
	if d.Host == nil || len(d.Settings.Registries) == 0 {
		return []Check{{Check: checkConfig, Result: Skipped, Text: "it is not known which registries are to come through the mirror: neither peerd nor a seeder answers; name them with --registry"}}
	}
	ctx, cancel := context.WithTimeout(ctx, canaryTimeout)
	defer cancel()
	type answer struct {
		*hostconf.Report
		error
	}
	done := make(chan answer, 1)
	go func() { // reading files cannot be ended
		r, err := d.Host.Inspect(ctx, d.Settings)
		done <- answer{r, err}
	}()
	var r *hostconf.Report
	select {
	case a := <-done:
		if a.error != nil {
			return []Check{{Check: checkConfig, Result: Skipped, Text: a.error.Error()}}
		}
		r = a.Report
	case <-ctx.Done():
		return []Check{{Check: checkConfig, Result: Skipped, Text: "reading the runtimes' files did not end in time"}}
	}
	var out []Check
	for _, n := range r.Notes {
		c := Check{Check: checkConfig, Subject: string(n.Runtime), Result: Warning, Code: n.Code, Text: n.Path + " " + n.Text, Remedy: n.Remedy}
		if n.Problem {
			c.Result = Fault
		}
		out = append(out, c)
	}
	for _, rt := range d.Settings.Runtimes {
		var names []string
		for _, p := range r.Proofs {
			if p.Runtime == rt {
				names = append(names, p.Registry)
			}
		}
		if len(names) > 0 {
			out = append(out, Check{Check: checkConfig, Subject: string(rt), Result: OK, Text: "asks the mirror first for " + strings.Join(names, ", ")})
		}
	}
	return out
}

// canaries has each runtime pull one of each registry.
func (d *doctor) canaries(ctx context.Context) []Check {
	why := ""
	switch {
	case d.NoCanary:
		why = "not asked for"
	case d.st == nil:
		why = "only peerd can tell whether a request has arrived, and it does not answer"
	case d.mirror.Result == Fault:
		why = "the mirror does not answer"
	}
	if why != "" {
		return []Check{{Check: checkCanary, Result: Skipped, Text: why}}
	}
	if c := d.ownCanary(ctx); c.Result == Fault {
		return []Check{c}
	}
	var mu sync.Mutex
	var out []Check
	var wg sync.WaitGroup
	for _, r := range d.Settings.Runtimes {
		p, err := d.puller(r)
		if err != nil {
			mu.Lock()
			out = append(out, Check{Check: checkCanary, Subject: string(r), Result: Skipped, Text: err.Error()})
			mu.Unlock()
			continue
		}
		wg.Go(func() {
			defer p.close()
			var pulls sync.WaitGroup
			defer pulls.Wait()
			for _, name := range d.registriesOf(r) {
				pulls.Go(func() {
					c := d.canary(ctx, r, p, name)
					mu.Lock()
					defer mu.Unlock()
					out = append(out, c)
				})
			}
		})
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b Check) int { return strings.Compare(a.Subject, b.Subject) })
	return out
}

// registriesOf are the registries of which a runtime is to pull a canary.
func (d *doctor) registriesOf(r hostconf.Runtime) []string {
	list := slices.DeleteFunc(slices.Clone(d.Settings.Registries), func(s string) bool {
		return s == hostconf.DefaultRegistry || r == hostconf.Docker && s != registry.DockerHub // dockerd has no mirrors of others
	})
	if len(list) == 0 && r != hostconf.Docker {
		list = d.upstreams()
	}
	return list[:min(len(list), maxRegistries)]
}

// ownCanary asks the mirror itself for one: what answers there has to be the peerd
// that answers on the admin server.
func (d *doctor) ownCanary(ctx context.Context) Check {
	c := Check{Check: checkMirror, Subject: d.Mirror, Result: Fault, Code: codePortTaken, Remedy: "give --listen and --admin-listen of the same peerd; if they are, see who has the port"}
	names := d.upstreams()
	if len(names) == 0 {
		return Check{Check: checkCanary, Result: Fault, Code: codeRegistryUnknown, Text: "peerd stands for no registry yet: no seeder has told it any, and it has no --upstream",
			Remedy: "see to it that peerd reaches its seeder, or give it --upstream NAME=URL"}
	}
	var made canary.Canary
	if err := d.admin.call(ctx, http.MethodPost, canary.Path, &made); err != nil {
		return Check{Check: checkCanary, Result: Fault, Code: codeCanaryFailed, Text: "peerd makes no canary: " + err.Error(), Remedy: "have peerd and this program from the same release"}
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	u := fmt.Sprintf("%s/v2/%s/manifests/%s?ns=%s", strings.TrimSuffix(d.Mirror, "/"), canary.Repository, made.Digest, names[0])
	resp, err := get(ctx, u)
	switch {
	case err != nil:
		c.Code, c.Text, c.Remedy = codeMirrorHung, "a manifest is not answered: "+err.Error(), "restart peerd (`systemctl restart peerd`)"
	case resp.code != http.StatusOK:
		c.Text = fmt.Sprintf("%s, and it does not know a canary that peerd has just made: %s", d.holder(), resp.status)
	default:
		c.Result = OK
	}
	return c
}

// canary has a runtime pull one of a registry.
func (d *doctor) canary(ctx context.Context, r hostconf.Runtime, p puller, name string) Check {
	c := Check{Check: checkCanary, Subject: string(r) + " " + name}
	if !slices.Contains(d.upstreams(), name) {
		c.Result, c.Code = Fault, codeRegistryUnknown
		c.Text = "peerd does not stand for this registry: it answers 404, and clients go on to the registry itself"
		c.Remedy = "give the seeder (or peerd) --upstream " + name + "=URL, or take the registry out of `peerd setup apply --registry`"
		return c
	}
	ctx, cancel := context.WithTimeout(ctx, canaryTimeout)
	defer cancel()
	var made canary.Canary
	if err := d.admin.call(ctx, http.MethodPost, canary.Path, &made); err != nil {
		c.Result, c.Text = Skipped, err.Error()
		return c
	}
	image := name + "/" + canary.Repository + "@" + made.Digest.String()
	began := time.Now()
	perr := p.pull(ctx, image)
	took := time.Since(began)
	after, cancel2 := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel2()
	if perr == nil {
		if err := p.remove(after, image); err != nil {
			d.add(Check{Check: checkCanary, Subject: c.Subject, Result: Warning, Code: codeCanaryFailed, Text: "the canary could not be removed again: " + err.Error(),
				Remedy: "remove " + image + "; it has 3 KB"})
		}
	}
	var got canary.Canary
	if err := d.admin.call(after, http.MethodGet, canary.Path+"/"+made.Digest.String(), &got); err != nil {
		c.Result, c.Text = Skipped, "peerd does not tell who has asked: "+err.Error()
		return c
	}
	verdict(&c, r, &got, perr, took)
	return c
}

// verdict is what a canary proves.
func verdict(c *Check, r hostconf.Runtime, got *canary.Canary, perr error, took time.Duration) {
	var absent notHere
	said := "it pulled something, from elsewhere"
	switch {
	case errors.Is(perr, context.DeadlineExceeded):
		said = fmt.Sprintf("the pull did not end within %s", canaryTimeout)
	case perr != nil:
		said = strings.Join(strings.Fields(perr.Error()), " ")
		said = said[:min(len(said), maxSaid)]
	}
	switch {
	case len(got.Seen) == 0 && errors.As(perr, &absent):
		c.Result, c.Text = Skipped, absent.Error()
	case len(got.Seen) == 0 && (errors.Is(perr, os.ErrPermission) || errors.Is(perr, os.ErrNotExist)):
		c.Result, c.Text = Skipped, "run this as root: "+said
	case len(got.Seen) == 0:
		c.Result, c.Code = Fault, codeBypassed
		c.Text = "the mirror was not asked; the runtime says: " + said
		c.Remedy = fmt.Sprintf("`peerd setup plan --runtime %s` shows what is missing; where nothing is, the runtime has not read its files since they were changed: restart it", r)
	case perr != nil || !got.Pulled():
		c.Result, c.Code = Fault, codeCanaryFailed
		c.Text = fmt.Sprintf("the mirror was asked (%d requests), but the pull failed: %s", len(got.Seen), said)
		c.Remedy = "what the runtime says is the cause, and its own log says more (its disk, its rights, its proxy); the mirror has given what it was asked for"
	default:
		c.Result = OK
		c.Text = fmt.Sprintf("pulled through the mirror in %s: %d requests of %s", took.Round(time.Millisecond), len(got.Seen), agent(got.Seen))
	}
}

// agent is the program that has asked.
func agent(seen []canary.Request) string {
	name, _, _ := strings.Cut(seen[0].UserAgent, " ")
	if name == "" {
		return "a client without a name"
	}
	return name
}
