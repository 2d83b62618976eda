// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Load reads files, and in directories every *.yaml, *.yml and *.json file, subfolders too, in the order of their
// names. The error is only for what can't be read at all; documents that can't be used are in Objects.SetAside.
func Load(paths []string) (*Objects, error) {
	files, err := Files(paths)
	if err != nil {
		return nil, err
	}
	var loader Loader
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read manifests: %w", err)
		}
		loader.Decode(file, data)
	}
	return loader.Objects(), nil
}

// Files lists the manifest files that paths name.
func Files(paths []string) ([]string, error) {
	var files []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("read manifests: %w", err)
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		within, err := filesIn(path)
		if err != nil {
			return nil, err
		}
		files = append(files, within...)
	}
	return files, nil
}

func filesIn(dir string) (files []string, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		hidden := strings.HasPrefix(entry.Name(), ".") && path != dir
		switch {
		case err != nil:
			return err
		case entry.IsDir() && hidden:
			// Kubernetes mounts ConfigMaps as links into a hidden folder; what is hidden is never meant twice.
			return fs.SkipDir
		case !entry.IsDir() && !hidden && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)):
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read manifests in %s: %w", dir, err)
	}
	return files, nil
}
