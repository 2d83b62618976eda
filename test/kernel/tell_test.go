// SPDX-License-Identifier: Apache-2.0

package kernel

import "encoding/binary"

// quotedOf returns what an ICMP error of ours quotes of a frame: whole words, so that the error has 576 bytes at
// most over IPv4 and 1280 over IPv6.
func quotedOf(frame []byte) []byte {
	length, most := int(binary.BigEndian.Uint16(frame[16:])), 576-20-8
	if frame[12] == 0x86 {
		length, most = 40+int(binary.BigEndian.Uint16(frame[18:])), 1280-40-8
	}
	return frame[14:][:min(length&^3, most)]
}
