// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"

	"github.com/deltaplane/deltaplane/schemas"
)

// The files that services are given. Each kind of user has a folder, which is all that it needs and may become a Secret.
const (
	// FileCredentials is a user's JWT and private key, as nsc writes it.
	FileCredentials = "bus.creds"
	// FileDoor are the watcher's second credentials, to look at who joins; FileJoin those to join with.
	FileDoor = "door.creds"
	FileJoin = "join.creds"
	// FileNodes signs nodes' credentials, FileAnswers what the door says to the servers. The watcher has both.
	FileNodes   = "nodes.nk"
	FileAnswers = "answers.nk"
	// FileCA has the certificates by which the bus's servers are known.
	FileCA = "ca.crt"
	// FileSeal is what a service seals with, FileSeals the public keys that it believes.
	FileSeal  = "signing-key.pem"
	FileSeals = "trusted-keys.pem"
)

// fileAccounts is what the servers read.
const fileAccounts = "accounts.conf"

// The folders, beside one for each of the roles watcher, compiler, operator, reader, admin and system.
const (
	folderKeys       = "keys"
	folderBus        = "bus"
	folderProgrammer = "programmer"
	folderNodes      = "nodes"
	folderUsers      = "users"
)

// Folder is where everything about trust is: private keys, and what is made of them.
type Folder struct {
	path string
	keys *ring
}

// Open returns the folder at path, which Init has filled.
func Open(path string) (*Folder, error) {
	f := &Folder{path: path, keys: &ring{filepath.Join(path, folderKeys)}}
	if _, err := os.Stat(f.keys.path(operatorKey)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no operator's key: make one with: deltaplane trust init %s", path, path)
	} else if err != nil {
		return nil, fmt.Errorf("open the folder of keys: %w", err)
	}
	return f, nil
}

// Init makes what is missing in the folder at path, and makes accounts and certificates anew. Keys that are there stay,
// so that it may be run again: after an upgrade, or with other hosts. hosts are the names and addresses at which the
// bus's servers are reached.
func Init(path string, hosts []string) (*Folder, error) {
	if err := checkHosts(hosts); err != nil {
		return nil, err
	}
	f := &Folder{path: path, keys: &ring{filepath.Join(path, folderKeys)}}
	for _, step := range []func() error{
		f.Accounts, func() error { return f.servers(hosts) }, f.services, f.authorities, f.Seals,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Path returns the folder of a kind of user: a role's name, "programmer", or "bus" for the servers'.
func (f *Folder) Path(of string) string { return filepath.Join(f.path, of) }

// BusPath is what servers need: accounts.conf, ca.crt, tls.crt and tls.key.
func (f *Folder) BusPath() string { return f.Path(folderBus) }

// NodePath is the folder of a node that Node has made.
func (f *Folder) NodePath(node string) string {
	return filepath.Join(f.Path(folderNodes), schemas.User(node))
}

// Accounts writes the accounts as the servers read them: what each kind of user may do.
func (f *Folder) Accounts() error {
	operator, err := f.keys.pair(operatorKey)
	if err != nil {
		return err
	}
	system, err := f.keys.public(accountKey(AccountSystem))
	if err != nil {
		return err
	}
	token, err := f.keys.operatorToken(operator, system)
	if err != nil {
		return err
	}
	revoked, err := f.revokedKeys()
	if err != nil {
		return err
	}
	text := &strings.Builder{}
	fmt.Fprintf(text, "# Made by deltaplane trust: who may do what. docs/reference/permissions.md says it in words.\n\n")
	fmt.Fprintf(text, "operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: {\n", token, system)
	for _, name := range accounts {
		claims, err := accountClaims(name, f.keys)
		if err != nil {
			return err
		}
		if name == AccountNodes {
			claims.Revocations = revoked
		}
		if token, err = encode(claims, operator); err != nil {
			return err
		}
		fmt.Fprintf(text, "  # %s\n  %s: %s\n", name, claims.Subject, token)
	}
	text.WriteString("}\n")
	return write(filepath.Join(f.BusPath(), fileAccounts), []byte(text.String()))
}

// servers writes the servers' certificate.
func (f *Folder) servers(hosts []string) error {
	ca, err := openAuthority(f.keys.folder)
	if err != nil {
		return err
	}
	chain, key, err := ca.server(hosts)
	if err != nil {
		return err
	}
	return errors.Join(write(filepath.Join(f.BusPath(), "tls.crt"), chain), write(filepath.Join(f.BusPath(), "tls.key"), key))
}

// services writes the credentials of those who are many and have one: everyone but nodes.
func (f *Folder) services() error {
	for _, c := range []struct{ role, path string }{
		{RoleWatcher, f.file(RoleWatcher, FileCredentials)},
		{RoleDoor, f.file(RoleWatcher, FileDoor)},
		{RoleCompiler, f.file(RoleCompiler, FileCredentials)},
		{RoleJoining, f.file(folderProgrammer, FileJoin)},
		{RoleOperator, f.file(RoleOperator, FileCredentials)},
		{RoleReader, f.file(RoleReader, FileCredentials)},
		{RoleAdmin, f.file(RoleAdmin, FileCredentials)},
		{RoleSystem, f.file(RoleSystem, FileCredentials)},
	} {
		if err := f.credentials(c.role, c.role, c.path); err != nil {
			return err
		}
	}
	nodes, err := f.signer(AccountNodes, partKeys()...)
	if err != nil {
		return err
	}
	answers, err := f.signer(AccountJoin, answerKey)
	if err != nil {
		return err
	}
	for file, issuer := range map[string]*Issuer{FileNodes: nodes, FileAnswers: answers} {
		text, err := issuer.file()
		if err != nil {
			return err
		}
		if err := write(f.file(RoleWatcher, file), text); err != nil {
			return err
		}
	}
	return nil
}

func (f *Folder) file(of, name string) string { return filepath.Join(f.Path(of), name) }

// authorities gives everyone what the servers are known by.
func (f *Folder) authorities() error {
	for _, of := range []string{folderBus, RoleWatcher, RoleCompiler, folderProgrammer, RoleOperator, RoleReader, RoleAdmin, RoleSystem} {
		if err := f.authority(f.Path(of)); err != nil {
			return err
		}
	}
	return nil
}

func (f *Folder) authority(folder string) error {
	ca, err := openAuthority(f.keys.folder)
	if err != nil {
		return err
	}
	return write(filepath.Join(folder, FileCA), ca.pem())
}

// Seals writes what is sealed with, and whom everyone believes: a node the compilers; a compiler the watchers, and the
// compilers for what they have logged.
func (f *Folder) Seals() error {
	for _, service := range []string{RoleWatcher, RoleCompiler} {
		private, _, err := f.keys.seal(service)
		if err != nil {
			return err
		}
		if err := write(f.file(service, FileSeal), private); err != nil {
			return err
		}
	}
	all, err := f.keys.sealsOf(RoleWatcher, RoleCompiler)
	if err != nil {
		return err
	}
	if err := write(f.file(RoleCompiler, FileSeals), all); err != nil {
		return err
	}
	return f.nodeSeals(f.Path(folderProgrammer))
}

func (f *Folder) nodeSeals(folder string) error {
	compilers, err := f.keys.sealsOf(RoleCompiler)
	if err != nil {
		return err
	}
	return write(filepath.Join(folder, FileSeals), compilers)
}

// Node makes the folder of a node that can't join by a ServiceAccount: its credentials have no end.
func (f *Folder) Node(node string) error {
	revoked, err := f.Revoked()
	if err != nil {
		return err
	}
	if slices.Contains(revoked, node) {
		return fmt.Errorf("node %s is put out: let it in again with: deltaplane trust allow %s %s", node, f.path, node)
	}
	return f.node(schemas.User(node))
}

func (f *Folder) node(user string) error {
	folder := filepath.Join(f.Path(folderNodes), user)
	return errors.Join(f.credentials(RoleNode, user, filepath.Join(folder, FileCredentials)), f.authority(folder), f.nodeSeals(folder))
}

var userForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// User makes the folder of one more user of a role that people have, and returns where it is.
func (f *Folder) User(role, name string) (string, error) {
	if allowed := []string{RoleOperator, RoleReader, RoleAdmin, RoleSystem}; !slices.Contains(allowed, role) {
		return "", fmt.Errorf("role %q: want one of %s", role, strings.Join(allowed, ", "))
	}
	if !userForm.MatchString(name) {
		return "", fmt.Errorf("user %q: want up to 63 small letters, digits and dashes", name)
	}
	if slices.ContainsFunc(Roles, func(r Role) bool { return r.Name == name }) {
		return "", fmt.Errorf("user %q: that is the name of a role: take another", name)
	}
	folder := filepath.Join(f.Path(folderUsers), name)
	return folder, errors.Join(f.credentials(role, name, filepath.Join(folder, FileCredentials)), f.authority(folder))
}

// credentials writes a user's JWT and key. What the user may do follows from the key that signs it.
func (f *Folder) credentials(role, user, path string) error {
	signer, err := f.issuer(role)
	if err != nil {
		return err
	}
	pair, err := f.keys.pair(userKey(role, user))
	if err != nil {
		return err
	}
	public, err := pair.PublicKey()
	if err != nil {
		return err
	}
	token, err := signer.Issue(user, public, 0)
	if err != nil {
		return err
	}
	seed, err := pair.Seed()
	if err != nil {
		return err
	}
	text, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		return fmt.Errorf("write the credentials of %s: %w", user, err)
	}
	return write(path, text)
}

// issuer makes JWTs of users with a role.
func (f *Folder) issuer(role string) (*Issuer, error) {
	return f.signer(RoleNamed(role).Account, roleKey(role))
}

func (f *Folder) signer(account string, keys ...string) (*Issuer, error) {
	id, err := f.keys.public(accountKey(account))
	if err != nil {
		return nil, err
	}
	i := &Issuer{account: id}
	for _, key := range keys {
		pair, err := f.keys.pair(key)
		if err != nil {
			return nil, err
		}
		i.keys = append(i.keys, pair)
	}
	return i, nil
}
