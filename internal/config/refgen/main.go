// Command refgen writes the configuration reference page to the file it is
// given; `go generate ./internal/config` runs it.
package main

import (
	"fmt"
	"os"

	"github.com/samara-p2p/samara/internal/config"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "refgen:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one argument, the file to write")
	}
	f, err := os.Create(args[0])
	if err != nil {
		return err
	}
	if err := config.WriteReference(f); err != nil {
		_ = f.Close() // the first error is the one to tell
		return err
	}
	return f.Close()
}
