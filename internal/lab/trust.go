// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"path/filepath"

	"github.com/deltaplane/deltaplane/internal/lab/fabric"
	"github.com/deltaplane/deltaplane/internal/trust"
)

// secure makes keys and accounts for the lab's own bus: it runs with the configuration of a cluster's.
func (l *Lab) secure() (err error) {
	if l.options.Bus != "" {
		return nil
	}
	hosts := []string{"127.0.0.1"}
	for _, addr := range fabric.BridgeAddrs {
		hosts = append(hosts, addr.String())
	}
	if l.options.Machines != nil {
		for n := range l.options.Machines.Servers {
			for _, addr := range machineAddrs(n + 1) {
				hosts = append(hosts, addr.String())
			}
		}
	}
	l.trust, err = trust.Init(l.dir.trust(), hosts)
	return err
}

// credentials are the flags by which a service of the lab says who it is.
func (l *Lab) credentials(role string) []string {
	if l.trust == nil {
		return nil
	}
	folder := l.trust.Path(role)
	flags := append(credentialsIn(folder), "--signing-key", filepath.Join(folder, trust.FileSeal))
	if role == trust.RoleCompiler {
		flags = append(flags, "--trusted-keys", filepath.Join(folder, trust.FileSeals))
	}
	return flags
}

// nodeCredentials are those of a node's programmer. A lab has no ServiceAccounts to join by.
func (l *Lab) nodeCredentials(node string) ([]string, error) {
	if l.trust == nil {
		return nil, nil
	}
	if err := l.trust.Node(node); err != nil {
		return nil, err
	}
	folder := l.trust.NodePath(node)
	return append(credentialsIn(folder), "--trusted-keys", filepath.Join(folder, trust.FileSeals)), nil
}

func credentialsIn(folder string) []string {
	return []string{
		"--bus-credentials", filepath.Join(folder, trust.FileCredentials),
		"--bus-ca", filepath.Join(folder, trust.FileCA),
	}
}

// operator returns the files with which people connect to the lab's bus; empty for a bus that isn't the lab's.
func (l *Lab) operator() (credentials, ca string) {
	if l.trust == nil {
		return "", ""
	}
	folder := l.trust.Path(trust.RoleOperator)
	return filepath.Join(folder, trust.FileCredentials), filepath.Join(folder, trust.FileCA)
}
