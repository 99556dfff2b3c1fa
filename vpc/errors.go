// SPDX-License-Identifier: Apache-2.0

package vpc

import "fmt"

// Code is an error code of the EC2 API. It is an error itself, so that errors.Is(err, DependencyViolation) asks for it.
type Code string

// The codes that the model uses.
const (
	// AddressLimitExceeded: the quota of Elastic IPs is used up.
	AddressLimitExceeded Code = "AddressLimitExceeded"
	// AlreadyAssociated: the object is bound to something, and the call may not or cannot move it.
	AlreadyAssociated Code = "Resource.AlreadyAssociated"
	// AttachmentLimitExceeded: the instance has as many network interfaces as it may have.
	AttachmentLimitExceeded Code = "AttachmentLimitExceeded"
	// CannotDelete: the default security group stays.
	CannotDelete Code = "CannotDelete"
	// CIDRLimitExceeded and the others like it: a quota is used up (see Quotas).
	CIDRLimitExceeded             Code = "CidrLimitExceeded"
	GroupsPerInterfaceExceeded    Code = "SecurityGroupsPerInterfaceLimitExceeded"
	InterfaceLimitExceeded        Code = "NetworkInterfaceLimitExceeded"
	NATGatewayLimitExceeded       Code = "NatGatewayLimitExceeded"
	PrivateIPAddressLimitExceeded Code = "PrivateIpAddressLimitExceeded"
	RouteLimitExceeded            Code = "RouteLimitExceeded"
	RouteTableLimitExceeded       Code = "RouteTableLimitExceeded"
	RulesPerGroupExceeded         Code = "RulesPerSecurityGroupLimitExceeded"
	SecurityGroupLimitExceeded    Code = "SecurityGroupLimitExceeded"
	SubnetLimitExceeded           Code = "SubnetLimitExceeded"
	VPCLimitExceeded              Code = "VpcLimitExceeded"
	// AuthFailure: the Elastic IP is managed by a NAT gateway.
	AuthFailure Code = "AuthFailure"
	// DependencyViolation: something else still needs the object.
	DependencyViolation Code = "DependencyViolation"
	// GatewayNotAttached: the VPC has no internet gateway, or not this one.
	GatewayNotAttached Code = "Gateway.NotAttached"
	// IncorrectInstanceState: the instance is not in a state that allows the call.
	IncorrectInstanceState Code = "IncorrectInstanceState"
	// IncorrectState: the object is not in a state that allows the call.
	IncorrectState Code = "IncorrectState"
	// InsufficientAddressCapacity: no public address is free and past its cool-down.
	InsufficientAddressCapacity Code = "InsufficientAddressCapacity"
	// InsufficientFreeAddresses: no private address of the subnet is free.
	InsufficientFreeAddresses Code = "InsufficientFreeAddressesInSubnet"
	// InterfaceInUse: the network interface is attached.
	InterfaceInUse Code = "InvalidNetworkInterface.InUse"
	// InvalidInstanceID: the instance does not say which network interface is meant.
	InvalidInstanceID Code = "InvalidInstanceID"
	// InvalidParameter: security groups of another VPC.
	InvalidParameter Code = "InvalidParameter"
	// InvalidParameterCombination: values that exclude each other.
	InvalidParameterCombination Code = "InvalidParameterCombination"
	// InvalidParameterValue: a value is not possible here.
	InvalidParameterValue Code = "InvalidParameterValue"
	// IPAddressInUse: the address belongs to somebody.
	IPAddressInUse Code = "InvalidIPAddress.InUse"
	// GroupDuplicate: the VPC has a security group of that name. PermissionDuplicate: the group has that rule.
	GroupDuplicate      Code = "InvalidGroup.Duplicate"
	PermissionDuplicate Code = "InvalidPermission.Duplicate"
	// MissingParameter: the call says too little.
	MissingParameter Code = "MissingParameter"
	// OperationNotPermitted: the object cannot be parted from another.
	OperationNotPermitted Code = "OperationNotPermitted"
	// RouteAlreadyExists: the table has a route to this destination.
	RouteAlreadyExists Code = "RouteAlreadyExists"
	// SubnetConflict: the CIDR overlaps that of another subnet.
	SubnetConflict Code = "InvalidSubnet.Conflict"
	// SubnetRange: the CIDR is of a bad size, or not within the VPC.
	SubnetRange Code = "InvalidSubnet.Range"
	// TransitAttachmentDuplicate: the VPC is attached to that transit gateway.
	TransitAttachmentDuplicate Code = "DuplicateTransitGatewayAttachment"
	// VPCRange: the CIDR is of a bad size, or overlaps what it must not.
	VPCRange Code = "InvalidVpc.Range"

	// AllocationNotFound and the others like it: there is no such thing.
	AllocationNotFound        Code = "InvalidAllocationID.NotFound"
	AssociationNotFound       Code = "InvalidAssociationID.NotFound"
	AttachmentNotFound        Code = "InvalidAttachmentID.NotFound"
	CIDRAssociationNotFound   Code = "InvalidVpcCidrBlockAssociationID.NotFound"
	GatewayNotFound           Code = "InvalidGatewayID.NotFound"
	GroupNotFound             Code = "InvalidGroup.NotFound"
	InstanceNotFound          Code = "InvalidInstanceID.NotFound"
	InterfaceNotFound         Code = "InvalidNetworkInterfaceID.NotFound"
	InternetGatewayNotFound   Code = "InvalidInternetGatewayID.NotFound"
	NATGatewayNotFound        Code = "NatGatewayNotFound"
	PermissionNotFound        Code = "InvalidPermission.NotFound"
	RouteNotFound             Code = "InvalidRoute.NotFound"
	RouteTableNotFound        Code = "InvalidRouteTableID.NotFound"
	SubnetNotFound            Code = "InvalidSubnetID.NotFound"
	TransitAttachmentNotFound Code = "InvalidTransitGatewayAttachmentID.NotFound"
	TransitGatewayNotFound    Code = "InvalidTransitGatewayID.NotFound"
	VPCNotFound               Code = "InvalidVpcID.NotFound"
)

// Error is the code alone.
func (c Code) Error() string { return string(c) }

// Error is why a call was refused.
type Error struct {
	// Code is for programs, as EC2 spells it.
	Code Code
	// Message is for people: what is wrong and what to do about it.
	Message string
}

// Error is code and message.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Unwrap returns the code, so that errors.Is matches it.
func (e *Error) Unwrap() error { return e.Code }

func refuse(code Code, format string, args ...any) error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}
