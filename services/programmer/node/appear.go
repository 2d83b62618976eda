// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Pair is news of one end of a pair of interfaces, which may be a pod's.
type Pair struct {
	Interface
	// Gone says that it is no longer in this network namespace: another may have its index next.
	Gone bool
}

// Appear tells of each end of a pair as soon as the kernel does: when it comes, when its other end goes to another
// network namespace, when something else about it changes, and when it goes. Addresses are as they are then. It says
// nothing of what was there before: for that is Read, after the first message of Watch. The channel is closed once ctx
// has ended.
func Appear(ctx context.Context) <-chan Pair {
	news := make(chan Pair, 64)
	go func() {
		defer close(news)
		for ctx.Err() == nil {
			Hear(ctx, news)
			select {
			case <-ctx.Done():
			case <-time.After(resubscribe):
			}
		}
	}()
	return news
}

// Hear passes news on until ctx ends or the kernel tells no more, of the network namespace that the calling thread is in.
func Hear(ctx context.Context, news chan<- Pair) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	links := make(chan netlink.LinkUpdate, 256)
	options := netlink.LinkSubscribeOptions{ErrorCallback: func(error) {}} // the channel is closed then, which is all that matters
	if netlink.LinkSubscribeWithOptions(links, ctx.Done(), options) != nil {
		return
	}
	for update := range links {
		for _, pair := range newsOf(&update) {
			select {
			case news <- pair:
			case <-ctx.Done():
			}
		}
	}
}

// newsOf says what a message means. When an end goes to another namespace the message is of that one, and its other end
// is apart from then on.
func newsOf(update *netlink.LinkUpdate) (news []Pair) {
	l := update.Link
	if l.Type() != "veth" {
		return nil
	}
	if update.Header.Type == unix.RTM_DELLINK {
		news = append(news, Pair{Interface: interfaceOf(l), Gone: true})
		other, err := netlink.LinkByIndex(l.Attrs().ParentIndex)
		if err != nil || other.Type() != "veth" {
			return news // both ends are gone
		}
		l = other
	}
	i := interfaceOf(l)
	i.Enslaved = l.Attrs().MasterIndex != 0
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return news // it is gone, or the next list of all has it
	}
	for _, a := range addrs {
		i.add(&a)
	}
	return append(news, Pair{Interface: i})
}
