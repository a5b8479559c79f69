// Package config turns flags, environment and a YAML file into the one struct
// that a daemon is started with: Seeder or Peerd.
//
// A field's `name` tag is its flag (--p2p-listen), its YAML key (p2p-listen)
// and, behind the daemon's prefix, its environment variable
// (SEEDER_P2P_LISTEN). Its `help` tag is the flag's help and the line in
// docs/configuration.md, which is generated from the same struct. Defaults
// are in DefaultSeeder and DefaultPeerd.
//
// A flag beats the environment, which beats the file, which beats the
// default; a list given at one level replaces the list of the level below.
// What cannot be right is an error that says where it was given and what to
// do (Error, Problem). An unknown YAML key is one; unknown environment
// variables are not, because Kubernetes makes SEEDER_SERVICE_HOST and the
// like for a Service of that name.
//
// Not its job: to open, bind or fetch anything. Check looks at the file
// system but changes nothing there.
package config

//go:generate go run ./refgen ../../docs/configuration.md
