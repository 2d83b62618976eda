// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/deltaplane/deltaplane/internal/lab"
	"github.com/deltaplane/deltaplane/internal/lab/agent"
	"github.com/deltaplane/deltaplane/internal/manifest"
)

func newLabCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Run a cluster in network namespaces",
		Long: `lab builds a cluster on this machine from plain Kubernetes YAML: nodes, pods and an outside client are network
namespaces, and the real services program this kernel. It needs root.

A place is NS/POD, node/NAME or outside. The name of a workload stands for its first pod, NAME-N for its N-th from 0.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&name, "name", lab.DefaultName, "which lab, if several run on this machine")
	cmd.AddCommand(newLabUpCommand(&name), newLabApplyCommand(&name), newLabDeleteCommand(&name), newLabProbeCommand(&name),
		newLabExecCommand(&name), newLabDownCommand(&name), newLabAgentCommand())
	return cmd
}

// newLabAgentCommand is what the lab starts inside pods and nodes; no person calls it.
func newLabAgentCommand() *cobra.Command {
	return &cobra.Command{
		Use: "agent", Short: "Dial what standard input says", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return agent.Serve(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

func newLabDownCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:     "down",
		Short:   "Take a lab down, also one that has crashed",
		Example: "  deltaplane lab down",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := lab.Down(cmd.Context(), *name)
			if err == nil && !found {
				fmt.Fprintf(cmd.ErrOrStderr(), "there is no lab %q, and nothing is left of one\n", *name)
			}
			return err
		},
	}
}

// manifestFlags name files of Kubernetes YAML, after -f or without.
type manifestFlags struct {
	paths     []string
	namesOnly bool // the objects are only to be found, not made
}

func (f *manifestFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.paths, "file", "f", nil, "file or folder of Kubernetes YAML, or - for standard input; may be given again, and more may follow")
}

// load reads all files. Documents that can't be used are told to aside one by one; the second result says if there were
// any.
func (f *manifestFlags) load(cmd *cobra.Command, args []string, aside io.Writer) (objects *manifest.Objects, spoilt error, err error) {
	paths := append(slices.Clip(f.paths), args...)
	if len(paths) == 0 {
		return nil, nil, errors.New("which objects? give files or folders of Kubernetes YAML with -f PATH")
	}
	loader := manifest.Loader{NamesOnly: f.namesOnly}
	for _, path := range paths {
		if err := loadPath(cmd, &loader, path); err != nil {
			return nil, nil, err
		}
	}
	objects = loader.Objects()
	for _, e := range objects.SetAside {
		fmt.Fprintln(aside, "set aside:", e)
	}
	if n := len(objects.SetAside); n > 0 {
		spoilt = fmt.Errorf("%d of the documents can't be used; see above", n)
	}
	return objects, spoilt, nil
}

func loadPath(cmd *cobra.Command, loader *manifest.Loader, path string) error {
	if path == "-" {
		data, err := io.ReadAll(cmd.InOrStdin())
		if err != nil {
			return fmt.Errorf("read standard input: %w", err)
		}
		loader.Decode("standard input", data)
		return nil
	}
	files, err := manifest.Files([]string{path})
	if err != nil {
		return err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read manifests: %w", err)
		}
		loader.Decode(file, data)
	}
	return nil
}

// asYAML writes objects as one text.
func asYAML(objects *manifest.Objects) ([]byte, error) {
	var text []byte
	for object := range objects.All() {
		one, err := yaml.Marshal(object)
		if err != nil {
			return nil, fmt.Errorf("write %s as YAML: %w", manifest.Name(object), err)
		}
		text = append(append(text, "---\n"...), one...)
	}
	return text, nil
}

func needRoot(what string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("to %s needs root: it makes network namespaces and cgroups", what)
	}
	return nil
}

func newLabApplyCommand(name *string) *cobra.Command {
	return newLabChangeCommand("apply", "Make or change objects of a lab, and wait until that is live on every node", name,
		func(ctx context.Context, c *lab.Control, yaml []byte, wait bool) error {
			return c.Apply(ctx, yaml, wait)
		})
}

func newLabDeleteCommand(name *string) *cobra.Command {
	return newLabChangeCommand("delete", "Delete objects of a lab, and wait until they are gone from every node", name,
		func(ctx context.Context, c *lab.Control, yaml []byte, wait bool) error {
			return c.Delete(ctx, yaml, wait)
		})
}

func newLabChangeCommand(verb, short string, name *string, change func(context.Context, *lab.Control, []byte, bool) error) *cobra.Command {
	files := manifestFlags{namesOnly: verb == "delete"}
	wait := true
	cmd := &cobra.Command{
		Use:     verb + " -f PATH...",
		Short:   short,
		Example: "  deltaplane lab " + verb + " -f web.yaml\n  deltaplane lab " + verb + " --wait=false -f web.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			objects, spoilt, err := files.load(cmd, args, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			text, err := asYAML(objects)
			if err != nil {
				return err
			}
			control, err := lab.Connect(*name)
			if err != nil {
				return err
			}
			return errors.Join(change(cmd.Context(), control, text, wait), spoilt)
		},
	}
	files.add(cmd)
	cmd.Flags().BoolVar(&wait, "wait", true, "return only when the change is live on every node")
	return cmd
}
