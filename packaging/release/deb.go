package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"
	"time"
)

// deb writes PROGRAM_VERSION_ARCH.deb.
func (r *release) deb(ctx context.Context, name, arch string) error {
	if r.nfpm == "" {
		return nil
	}
	t, err := template.ParseFiles("packaging/deb/nfpm.yaml")
	if err != nil {
		return err
	}
	config := filepath.Join(r.work, arch, name+".nfpm.yaml")
	f, err := os.Create(config)
	if err != nil {
		return err
	}
	defer f.Close()
	err = t.Option("missingkey=error").Execute(f, map[string]string{
		"Name": name, "Arch": arch, "Version": r.plainVersion(), "Module": module, "Time": r.time.Format(time.RFC3339),
		"Binary": r.binary(name, arch), "Manual": filepath.Join(r.manual(), name),
	})
	if err != nil {
		return err
	}
	return output(exec.CommandContext(ctx, r.nfpm, "package", "--config", config, "--packager", "deb", "--target", r.artefact(name, arch, "deb")))
}
