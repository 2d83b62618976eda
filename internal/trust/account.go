// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"fmt"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/deltaplane/deltaplane/schemas"
)

// Share is something of one account that another has too, under the name Local there.
type Share struct {
	From, To string
	Subject  string
	Local    string
	// Service is asked by the other account; else it is heard there.
	Service bool
	What    string
}

// Shares are all ways from one account into another.
var Shares = concat(
	asks(AccountPipeline, AccountNodes, "nodes ask what they miss", schemas.SubjectAllSyncs),
	asks(AccountPipeline, AccountNodes, "nodes report", schemas.SubjectAllApplied),
	asks(AccountPipeline, AccountNodes, "nodes tell what people should know", every(func(node string) string { return schemas.EventSubject("programmer", node) })),
	asks(AccountPipeline, AccountNodes, "nodes ask for credentials", schemas.SubjectAllCredentials),
	hears(AccountPipeline, AccountNodes, "nodes hear deltas", schemas.ApplySubject("cluster"), every(func(node string) string { return schemas.ApplySubject("node." + node) })),
	hears(AccountPipeline, AccountNodes, "nodes hear how far the cluster is", schemas.SubjectHeartbeat),
	asks(AccountNodes, AccountPipeline, "people ask what is in a node's kernel", every(schemas.ActualSubject)),
	asks(AccountNodes, AccountPipeline, "people ask what a node's pods are connected to", every(schemas.FlowsSubject)),
	asks(AccountPipeline, AccountReaders, "readers look at the streams", join(inspect(schemas.Streams...), read(schemas.Streams...))...),
)

func asks(from, to, what string, subjects ...string) (all []Share) {
	for _, s := range subjects {
		share := Share{From: from, To: to, Subject: s, Local: s, Service: true, What: what}
		if to == AccountReaders {
			share.Local = readSubject(s)
		}
		all = append(all, share)
	}
	return all
}

func hears(from, to, what string, subjects ...string) (all []Share) {
	for _, s := range subjects {
		all = append(all, Share{From: from, To: to, Subject: s, Local: s, What: what})
	}
	return all
}

func concat(lists ...[]Share) (all []Share) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// accounts are the names in the order in which they are written.
var accounts = []string{AccountSystem, AccountPipeline, AccountNodes, AccountReaders, AccountJoin}

// accountClaims describes an account: who may be its users, and what it shares. It has no user of its own key.
func accountClaims(name string, keys *ring) (*jwt.AccountClaims, error) {
	id, err := keys.public(accountKey(name))
	if err != nil {
		return nil, err
	}
	claims := jwt.NewAccountClaims(id)
	claims.Name = name
	if name == AccountPipeline {
		claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: jwt.NoLimit, Streams: int64(len(schemas.Streams)), Consumer: jwt.NoLimit}
	}
	claims.Limits.DisallowBearer = true
	for _, share := range Shares {
		if err := addShare(claims, name, share, keys); err != nil {
			return nil, err
		}
	}
	for _, role := range Roles {
		if role.Account != name {
			continue
		}
		for _, key := range roleKeys(role.Name) {
			if err := addSigner(claims, role, key, keys); err != nil {
				return nil, err
			}
		}
	}
	return claims, wrap("the callout of account "+name, addCallout(claims, name, keys))
}

// addSigner lets a key, in all its generations, sign for users of a role.
func addSigner(claims *jwt.AccountClaims, role Role, key string, keys *ring) error {
	for _, generation := range keys.generations(key) {
		public, err := keys.public(generation)
		if err != nil {
			return err
		}
		claims.SigningKeys.AddScopedSigner(scope(role, public))
	}
	return nil
}

func addShare(claims *jwt.AccountClaims, name string, s Share, keys *ring) error {
	kind, response := jwt.Stream, jwt.ResponseType("")
	if s.Service {
		kind, response = jwt.Service, jwt.ResponseTypeStream
	}
	switch name {
	case s.From:
		claims.Exports.Add(&jwt.Export{Name: s.Subject, Subject: jwt.Subject(s.Subject), Type: kind, ResponseType: response})
	case s.To:
		from, err := keys.public(accountKey(s.From))
		if err != nil {
			return err
		}
		in := &jwt.Import{Name: s.Subject, Subject: jwt.Subject(s.Subject), Account: from, Type: kind}
		if s.Local != s.Subject && s.Service {
			// Of a service, Subject is what the importer calls it, and To what the exporter does.
			in.Subject, in.To = jwt.Subject(s.Local), jwt.Subject(s.Subject) //nolint:staticcheck // LocalSubject can't end in > on one side
		}
		claims.Imports.Add(in)
	}
	return nil
}

// addCallout lets who joins be looked at by the door, which may say that it is a node.
func addCallout(claims *jwt.AccountClaims, name string, keys *ring) error {
	if name != AccountJoin {
		return nil
	}
	door, err := keys.public(userKey(RoleDoor, RoleDoor))
	if err != nil {
		return err
	}
	nodes, err := keys.public(accountKey(AccountNodes))
	if err != nil {
		return err
	}
	claims.Authorization.AuthUsers.Add(door)
	claims.Authorization.AllowedAccounts.Add(nodes)
	answers, err := keys.public(answerKey)
	if err != nil {
		return err
	}
	claims.SigningKeys.Add(answers)
	return nil
}

// scope is what users may do whose JWTs the key has signed.
func scope(role Role, key string) *jwt.UserScope {
	s := jwt.NewUserScope()
	s.Key, s.Role, s.Description = key, role.Name, role.Who
	s.Template.Pub, s.Template.Sub = permission(role.Publish), permission(role.Subscribe)
	if role.Answers {
		s.Template.Resp = &jwt.ResponsePermission{MaxMsgs: answersMax, Expires: answersWithin}
	}
	if role.Subscriptions > 0 {
		s.Template.Subs = role.Subscriptions
	}
	s.Template.AllowedConnectionTypes.Add(jwt.ConnectionTypeStandard)
	s.Template.Payload = schemas.MaxMessageBytes + 4<<10
	return s
}

func permission(subjects []string) (p jwt.Permission) {
	if len(subjects) == 0 {
		p.Deny.Add(">") // an empty list would allow all
		return p
	}
	p.Allow.Add(subjects...)
	return p
}

// encode signs claims, and refuses those that a server would.
func encode(claims jwt.Claims, signer nkeys.KeyPair) (string, error) {
	results := jwt.CreateValidationResults()
	claims.Validate(results)
	if errs := results.Errors(); len(errs) > 0 {
		return "", fmt.Errorf("%s %s: %w", claims.ClaimType(), claims.Claims().Name, errs[0])
	}
	return claims.Encode(signer)
}
