// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
)

// behaviour is one thing that users rely on. Its number, behind the page's mark, is what tests name it by.
type behaviour struct {
	number int
	title  string
}

// behaviourPage is a page of behaviours, each with the tests that show it.
type behaviourPage struct {
	title, mark, intro string
	behaviours         []behaviour
}

func (b *behaviourPage) write(top string) (string, error) {
	all, err := shownBy(top)
	if err != nil {
		return "", err
	}
	titles := map[int]string{}
	for _, one := range b.behaviours {
		titles[one.number] = one.title
	}
	if err := checkMarks(all, b.mark, func(n int) bool { return titles[n] != "" }); err != nil {
		return "", err
	}
	p := newPage(b.title, b.intro)
	for _, one := range b.behaviours {
		list := all[b.mark+" "+strconv.Itoa(one.number)]
		if len(list) == 0 {
			return "", fmt.Errorf("no test shows behaviour %d, %q: put \"%s %d: ...\" above one", one.number, one.title, b.mark, one.number)
		}
		p.section(fmt.Sprintf("%d. %s", one.number, one.title))
		var rows [][]string
		for _, s := range list {
			rows = append(rows, []string{s.says, s.link()})
		}
		p.table([]string{"what it does", "shown by"}, rows)
	}
	return p.String(), nil
}
