// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthTime bounds one question for health.
const healthTime = 2 * time.Second

// healthCommand asks the service that runs beside it whether it is ready. Images hold one binary and no curl, so the
// binary is what a container's health check can run.
func healthCommand(service, listen string) *cobra.Command {
	cmd := &cobra.Command{
		Use: "health", Short: "Ask the " + service + " on this machine whether it is ready", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
	}
	cmd.Flags().String("listen", listen, "the `address` that the service was given")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := resolve(cmd.Flags(), "", os.LookupEnv); err != nil {
			return err
		}
		return healthy(cmd.Context(), cmd.Flags().Lookup("listen").Value.String(), cmd.OutOrStdout())
	}
	return cmd
}

// healthy writes what /readyz says at addr, and returns an error unless it says yes.
func healthy(ctx context.Context, addr string, out io.Writer) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("--listen %q: %w", addr, err)
	}
	if host == "" {
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	url := "http://" + net.JoinHostPort(host, port) + "/readyz?verbose"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("no answer, so it isn't running or listens elsewhere: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("read %s: %w", url, err)
	}
	fmt.Fprintln(out, strings.TrimSpace(string(text)))
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: HTTP %s", response.Status)
	}
	return nil
}
