package cli

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/samara-p2p/samara/internal/audit"
	"github.com/samara-p2p/samara/internal/config"
)

// newAudit has `verify`, which takes files, or the flags of serve to find them.
func newAudit() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Check the audit log", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c, loader := config.NewSeeder()
	var since string
	verify := &cobra.Command{Use: "verify [FILE...]", Short: "Say whether lines of the audit log are missing or changed, and which is the first",
		Long: `Say whether lines of the audit log are missing or changed, and which is the
first. FILEs are one log, in any order; without any it is the one that the
configuration names, with all the files that it was renamed to.

The line printed at the end says how far the log goes. Keep it elsewhere, and
give it to --since the next time: then a log that was written anew, or cut at
its end, shows too.`}
	loader.Bind(verify.Flags())
	verify.Flags().StringVar(&since, "since", "", "NUMBER:HASH of a line that must be there, as printed before")
	verify.RunE = func(cmd *cobra.Command, files []string) error {
		return runs(func(cmd *cobra.Command) error {
			if len(files) == 0 {
				if err := loader.Load(os.LookupEnv); err != nil {
					return err
				}
				if c.AuditLog == "" {
					return errors.New("name the files of the audit log, or give --audit-log or --config as to `seeder serve`")
				}
				older, err := audit.Older(c.AuditLog)
				if err != nil {
					return err
				}
				files = append(older, c.AuditLog)
			}
			return verifyAudit(cmd, files, since)
		})(cmd, nil)
	}
	cmd.AddCommand(verify)
	return cmd
}

func verifyAudit(cmd *cobra.Command, files []string, since string) error {
	anchor := audit.Anchor{}
	if since != "" {
		number, hash, _ := strings.Cut(since, ":")
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil || n == 0 || len(hash) != 64 {
			return fmt.Errorf("--since %s: want NUMBER:HASH, as printed before", since)
		}
		anchor = audit.Anchor{Seq: n, Hash: hash}
	}
	s, err := audit.Verify(files, anchor)
	if err != nil {
		return err
	}
	if s.Last == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "the audit log is empty")
		return nil
	}
	if s.First > 1 {
		fmt.Fprintf(cmd.OutOrStdout(), "lines before number %d are in files that were not given\n", s.First)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "lines %d to %d are as they were written\n%d:%s\n", s.First, s.Last, s.Last, s.Head)
	return nil
}
