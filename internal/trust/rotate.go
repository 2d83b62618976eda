// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// A key is replaced in three steps, so that at no moment something is said with a key that isn't believed:
//
//	step        believed        used
//	            current         current
//	introduce   current, next   current
//	use         next, current   next       (the next becomes current, the current old)
//	retire      next            next       (the old is gone)
//
// Between them people give the files that changed to whom they are for. What is kept in the folder says which step
// comes next.

// The steps.
const (
	StepIntroduced = "introduced"
	StepUsed       = "used"
	StepRetired    = "retired"
)

// Rotation says what a step has done, and what people must do before the next.
type Rotation struct {
	Key, Step string
	// Changed are files, relative to the folder, that must reach whom they are for.
	Changed []string
	// Servers says that the bus's servers must read their accounts anew: nats-server --signal reload.
	Servers bool
}

// The keys that sign what a service says.
const sealPrefix = "seal-"

// Keys are the names of all keys that can be replaced: seal-SERVICE is what a service seals with, ROLE what makes the
// credentials of a kind of user.
func Keys() []string {
	keys := []string{sealPrefix + RoleCompiler, sealPrefix + RoleWatcher}
	for _, r := range Roles {
		keys = append(keys, r.Name)
	}
	return keys
}

// Rotate takes the next step of replacing a key.
func (f *Folder) Rotate(key string) (Rotation, error) {
	if !slices.Contains(Keys(), key) {
		return Rotation{}, fmt.Errorf("key %q: want one of %s", key, strings.Join(Keys(), ", "))
	}
	r := Rotation{Key: key}
	service, seal := strings.CutPrefix(key, sealPrefix)
	path, create := f.keys.path, func(name string) error { _, err := f.keys.pair(name); return err }
	names := roleKeys(key)
	if seal {
		path, create, names = f.keys.sealPath, func(name string) error { _, _, err := f.keys.seal(name); return err }, []string{service}
	}
	for _, name := range names {
		var err error
		if r.Step, err = step(path, create, name); err != nil {
			return r, wrap("replace key "+key, err)
		}
	}
	if seal {
		r.Changed = sealFiles(service, r.Step)
	} else {
		r.Changed, r.Servers = roleFiles(key, r.Step)
	}
	renewed, err := f.renew(key, r.Step)
	r.Changed = append(r.Changed, renewed...)
	return r, errors.Join(err, f.Accounts(), f.services(), f.Seals())
}

// renew writes anew what nodes and people have as files, if a step of replacing a key changes it.
func (f *Folder) renew(key, step string) ([]string, error) {
	switch {
	case key == sealPrefix+RoleCompiler && step != StepUsed:
		return f.renewNodes(FileSeals)
	case strings.HasPrefix(key, sealPrefix), step != StepUsed:
		return nil, nil
	case key == RoleNode:
		return f.renewNodes(FileCredentials)
	}
	return f.renewPeople(key)
}

// step moves the files of one key's generations.
func step(path func(string) string, create func(string) error, name string) (string, error) {
	switch {
	case exists(path(name + next)):
		if err := os.Rename(path(name), path(name+old)); err != nil {
			return "", err
		}
		return StepUsed, os.Rename(path(name+next), path(name))
	case exists(path(name + old)):
		return StepRetired, os.Remove(path(name + old))
	}
	return StepIntroduced, create(name + next)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// sealFiles are what a step changes for those who check what the service says, or for the service.
func sealFiles(service, step string) []string {
	if step == StepUsed {
		return []string{service + "/" + FileSeal}
	}
	files := []string{RoleCompiler + "/" + FileSeals}
	if service == RoleCompiler {
		files = append(files, folderProgrammer+"/"+FileSeals)
	}
	return files
}

// roleFiles are what a step changes for the servers, or for the role's users.
func roleFiles(role, step string) (files []string, servers bool) {
	if step != StepUsed {
		return []string{folderBus + "/" + fileAccounts}, true
	}
	switch role {
	case RoleNode:
		return []string{RoleWatcher + "/" + FileNodes}, false
	case RoleDoor:
		return []string{RoleWatcher + "/" + FileDoor}, false
	case RoleJoining:
		return []string{folderProgrammer + "/" + FileJoin}, false
	}
	return []string{role + "/" + FileCredentials}, false
}
