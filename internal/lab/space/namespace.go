// SPDX-License-Identifier: Apache-2.0

// Package space makes the places that lab processes live in: network namespaces held by files, and cgroups. It
// starts processes inside of them and takes everything down again, also what an earlier process left.
//
// It promises that the calling process stays where it is: only threads of their own enter a namespace, and a thread
// that can't come back is given up. Everything is found again by its path, so that nothing needs to be remembered
// over a crash but one directory and one cgroup.
package space

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace held by a file that it is mounted on.
type Namespace struct{ path string }

// NewNamespace makes a network namespace and mounts it on a new file at path.
func NewNamespace(path string) (*Namespace, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make network namespace %s: %w", path, err)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make network namespace %s: %w", path, err)
	}
	file.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w (this needs root)", err)
		}
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make network namespace %s: %w", path, err), os.Remove(path))
	}
	return &Namespace{path}, nil
}

// OpenNamespace returns the namespace that is mounted at path.
func OpenNamespace(path string) *Namespace { return &Namespace{path} }

// Path returns the file that holds the namespace: nsenter --net=PATH enters it.
func (n *Namespace) Path() string { return n.path }

// Do runs f on a thread inside the namespace. Sockets that f opens stay in the namespace; goroutines that f starts
// are not in it.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		file, err := os.Open(n.path)
		if err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", n.path, err)
		}
		return f()
	})
}

// Links returns a handle for the links, addresses and routes of the namespace. The caller closes it.
func (n *Namespace) Links() (*netlink.Handle, error) {
	file, err := os.Open(n.path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer file.Close()
	handle, err := netlink.NewHandleAt(netns.NsHandle(int(file.Fd())))
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", n.path, err)
	}
	return handle, nil
}

// Sysctl sets values below /proc/sys/net for the namespace.
func (n *Namespace) Sysctl(values map[string]string) error {
	return n.Do(func() error {
		for key, value := range values {
			path := filepath.Join("/proc/sys/net", key)
			if err := os.WriteFile(path, []byte(value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("set %s to %s in %s: %w", path, value, n.path, err)
			}
		}
		return nil
	})
}

// Close lets the namespace go: the kernel removes it and its links once no process or socket is left in it.
func (n *Namespace) Close() error {
	if err := unix.Unmount(n.path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("let network namespace %s go: %w", n.path, err)
	}
	if err := os.Remove(n.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("let network namespace %s go: %w", n.path, err)
	}
	return nil
}

// onThread runs f on a thread that ends with it, so that nothing else ever runs where f has taken the thread.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread with the goroutine
		done <- f()
	}()
	return <-done
}
