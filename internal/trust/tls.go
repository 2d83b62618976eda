// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// How long certificates are good. `trust init` makes the servers' anew.
const (
	authorityTime = 10 * 365 * 24 * time.Hour
	serverTime    = 2 * 365 * 24 * time.Hour
	// clockSlack is for clocks that are a little behind.
	clockSlack = 5 * time.Minute
)

// authority is the bus's own certificate authority: it vouches for the bus's servers and for nothing else, so that
// nobody has to trust it with anything else.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// openAuthority reads it from the folder of keys, or makes it.
func openAuthority(folder string) (*authority, error) {
	path := filepath.Join(folder, "ca.pem")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeAuthority(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the bus's certificate authority: %w", err)
	}
	certificate, rest := pem.Decode(data)
	key, _ := pem.Decode(rest)
	if certificate == nil || key == nil {
		return nil, fmt.Errorf("read the bus's certificate authority: %s has no certificate with a key behind it", path)
	}
	a := &authority{}
	if a.certificate, err = x509.ParseCertificate(certificate.Bytes); err != nil {
		return nil, fmt.Errorf("read the bus's certificate authority from %s: %w", path, err)
	}
	private, err := x509.ParsePKCS8PrivateKey(key.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the bus's certificate authority from %s: %w", path, err)
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("read the bus's certificate authority from %s: its key can't sign", path)
	}
	a.key = signer
	return a, nil
}

func makeAuthority(path string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the bus's certificate authority: %w", err)
	}
	template := certificate("deltaplane bus", authorityTime)
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign
	a := &authority{key: key}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the bus's certificate authority: %w", err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	private, err := privatePEM(key)
	if err != nil {
		return nil, err
	}
	return a, write(path, append(a.pem(), private...))
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// server makes a certificate and key for the bus's servers, which are reached by these names and addresses. They are
// also each other's clients.
func (a *authority) server(hosts []string) (chain, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make the servers' certificate: %w", err)
	}
	template := certificate("deltaplane bus server", serverTime)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, host := range hosts {
		if addr, err := netip.ParseAddr(host); err == nil {
			template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, private.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("make the servers' certificate: %w", err)
	}
	key, err = privatePEM(private)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key, err
}

// hostName is a DNS name as clients check a certificate's.
var hostName = regexp.MustCompile(`^(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)

// checkHosts refuses what no client could check: it would only say that the certificate is another's.
func checkHosts(hosts []string) error {
	if len(hosts) == 0 {
		return errors.New("make the servers' certificate: want a host at least: a name or an address at which the bus's servers are reached")
	}
	for _, host := range hosts {
		addr, err := netip.ParseAddr(host)
		last := host[strings.LastIndexByte(host, '.')+1:]
		named := len(host) <= 253 && hostName.MatchString(host) && strings.Trim(last, "0123456789") != ""
		if named || err == nil && addr.Zone() == "" {
			continue
		}
		return fmt.Errorf("make the servers' certificate: host %q is neither a DNS name nor an IP address: want names and addresses without ports, such as nats-0.example.org or 192.0.2.11, with commas between them", host)
	}
	return nil
}

func certificate(name string, good time.Duration) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-clockSlack), NotAfter: now.Add(good),
	}
}

func privatePEM(key any) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func publicPEM(key any) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
