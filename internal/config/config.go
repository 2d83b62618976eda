// SPDX-License-Identifier: Apache-2.0

// Package config gives every service the same command line: flags, environment, a strict YAML file, and
// --print-config, which says what is in force and where it comes from.
//
// It promises that a setting has one name everywhere: flag --log-level, variable DELTAPLANE_LOG_LEVEL and key log-level
// in the file are the same, in this precedence, before the default. A value or key that isn't understood is an error
// that names it, never ignored.
package config

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/deltaplane/deltaplane/internal/version"
)

// EnvPrefix starts the name of every variable that is read.
const EnvPrefix = "DELTAPLANE_"

// The flags that say where settings are, and so are none themselves.
const (
	fileFlag  = "config"
	printFlag = "print-config"
)

// Settings are what a service can be told: a struct that adds a flag for each of its fields.
type Settings interface {
	Flags(*pflag.FlagSet)
}

// Command returns the root command of a service. example shows calls, one a line, each with a line of comment before
// it. run gets the settings filled in, and a context that ends when the process should.
func Command(name, short, example string, settings Settings, run func(ctx context.Context) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, Short: short, Long: short + "\n\n" + help, Example: indent(example),
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true, Version: version.Current().Version,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	settings.Flags(cmd.Flags())
	file := cmd.Flags().String(fileFlag, "", "a YAML `file` with settings, named as the flags are")
	show := cmd.Flags().Bool(printFlag, false, "print the settings in force, each with its origin, and exit")
	if listen := cmd.Flags().Lookup("listen"); listen != nil {
		cmd.AddCommand(healthCommand(name, listen.DefValue))
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		origins, err := resolve(cmd.Flags(), *file, os.LookupEnv)
		if err != nil {
			return err
		}
		if *show {
			return origins.print(cmd.OutOrStdout(), name, cmd.Flags())
		}
		return run(cmd.Context())
	}
	return cmd
}

const help = `Each flag can be given as DELTAPLANE_<FLAG> in the environment, in capitals with _ for -,
and by its name in the file of --config. Flags come before the environment, the environment
before the file, the file before the default.`

// Main runs a service's command until it ends or the process is told to stop by SIGINT or SIGTERM; a second signal
// ends it at once. It returns the exit status: 0, or 1 with the error on stderr.
func Main(cmd *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return execute(ctx, cmd, os.Stderr)
}

func execute(ctx context.Context, cmd *cobra.Command, stderr io.Writer) int {
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", cmd.Name(), err)
		return 1
	}
	return 0
}

// EnvName returns the variable of a flag.
func EnvName(flag string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func indent(example string) string {
	lines := strings.Split(strings.TrimSpace(example), "\n")
	for i, line := range lines {
		lines[i] = "  " + strings.TrimSpace(line)
	}
	return strings.Join(lines, "\n")
}
