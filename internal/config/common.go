// SPDX-License-Identifier: Apache-2.0

package config

import "github.com/spf13/pflag"

// Common are the settings that all services have. A service's own settings embed it and call its Flags.
type Common struct {
	// Bus is the URL of the bus.
	Bus string
	// BusCredentials is a NATS credentials file, BusCA a file of certificate authorities; empty does without.
	BusCredentials string
	BusCA          string
	// Listen is where metrics and health are served; empty serves none.
	Listen string
	// LogFormat is "text" or "json", LogLevel "debug", "info", "warn" or "error".
	LogFormat string
	LogLevel  string
}

// Flags adds the flags. listen is the service's default address for metrics and health.
func (c *Common) Flags(flags *pflag.FlagSet, listen string) {
	flags.StringVar(&c.Bus, "bus", "nats://127.0.0.1:4222", "`URL` of the NATS servers, several separated by commas")
	flags.StringVar(&c.BusCredentials, "bus-credentials", "", "NATS credentials `file`, as nsc writes it")
	flags.StringVar(&c.BusCA, "bus-ca", "", "`file` of certificate authorities for tls:// URLs (default the system's)")
	flags.StringVar(&c.Listen, "listen", listen, "`address` for /metrics, /livez and /readyz; empty serves none")
	flags.StringVar(&c.LogFormat, "log-format", "text", "log as `text` or json")
	flags.StringVar(&c.LogLevel, "log-level", "info", "log from this `level` on: debug, info, warn or error")
}
